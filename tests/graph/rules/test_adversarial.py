"""Networks written to mislead the rules: whatever cannot be followed must be kept, never cut wrongly."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.graph.support import Tiny, check, codes, sizes, weight


def _net(middle, **parts) -> Tiny:
    return Tiny(lambda s, x: s.b(middle(s, s.a(x).relu())), a=nn.Linear(5, 8), b=nn.Linear(8, 2), **parts)


def _x() -> Tensor:
    return torch.randn(3, 5)


def test_a_constant_of_the_code_keeps_what_it_meets() -> None:
    analysis = check(_net(lambda s, h: h * torch.tensor([1.0, 2, 3, 4, 5, 6, 7, 8])), _x())
    assert sizes(analysis) == []
    assert "constant" in codes(analysis)


def test_a_buffer_is_cut_like_a_weight() -> None:
    analysis = check(_net(lambda s, h: h * s.scale, scale=torch.rand(8)), _x())
    assert sizes(analysis) == [8]
    assert "scale" in analysis.axes[0].parameters


def test_in_place_writes_through_a_view() -> None:
    def middle(s: Tiny, h: Tensor) -> Tensor:
        h = h.clone()
        h[:, :3] = 0.0
        h[:, 3:].mul_(2.0)
        return h

    assert sizes(check(_net(middle), _x(), form="graph")) == [3, 5]


def test_in_place_writes_at_a_place() -> None:
    def middle(s: Tiny, h: Tensor) -> Tensor:
        h = h.clone()
        h[:, 2] = h[:, 5]
        return h

    assert sizes(check(_net(middle), _x())) == []


def test_in_place_writes_at_indices() -> None:
    def middle(s: Tiny, h: Tensor) -> Tensor:
        h = h.clone()
        h.view(-1, 2, 4)[:, :, torch.tensor([0, 2])] = 1.0
        return h

    check(_net(middle), _x(), batch=False)


def test_in_place_changes_of_shape() -> None:
    assert sizes(check(_net(lambda s, h: h.clone().unsqueeze_(1).mul_(2).squeeze_(1)), _x())) == [8]


def test_in_place_sums_of_different_widths_by_broadcast() -> None:
    assert sizes(check(_net(lambda s, h: h.clone().add_(h.sum(-1, keepdim=True)).mul_(s.g), g=weight(1)), _x())) == [8]


def test_the_same_size_by_coincidence_is_not_tied() -> None:
    net = Tiny(lambda s, x: s.c(s.b(s.a(x).relu()).relu()), a=nn.Linear(8, 8), b=nn.Linear(8, 8), c=nn.Linear(8, 8))
    assert sizes(check(net, torch.randn(8, 8))) == [8, 8]


def test_a_batch_of_the_size_of_an_axis() -> None:
    net = _net(lambda s, h: (h.t() @ h / 100 + h.mean(0)) @ h.t() @ h)
    assert sizes(check(net, torch.randn(8, 5), mask=False, batch=False)) == [], "the axis is an output's rows"


def test_a_gram_matrix_flattened() -> None:
    net = Tiny(
        lambda s, x: s.b((h := s.a(x).relu()).unsqueeze(2).mul(h.unsqueeze(1)).flatten(1)),
        a=nn.Linear(5, 4), b=nn.Linear(16, 2),
    )  # fmt: skip
    assert sizes(check(net, _x())) == [4]


def test_a_triangle_of_a_gram_matrix() -> None:
    net = Tiny(
        lambda s, x: s.b((h := s.a(x).relu()).unsqueeze(2).mul(h.unsqueeze(1)).tril().flatten(1)),
        a=nn.Linear(5, 4), b=nn.Linear(16, 2),
    )  # fmt: skip
    assert sizes(check(net, _x())) == []


def test_a_diagonal() -> None:
    net = Tiny(
        lambda s, x: s.b(torch.diagonal(s.a(x).view(-1, 4, 4), dim1=1, dim2=2)), a=nn.Linear(5, 16), b=nn.Linear(4, 2)
    )
    assert sizes(check(net, _x(), batch=False)) == []


def test_one_weight_in_two_unlike_roles() -> None:
    """As a matrix and, flattened, as a scale: the view refines, and both roles follow."""
    net = Tiny(
        lambda s, x: s.out(F.linear(s.a(x).relu(), s.w).relu()) + s.c(s.d(x).relu() * s.w.flatten()),
        a=nn.Linear(5, 4), w=weight(6, 4), out=nn.Linear(6, 2), d=nn.Linear(5, 24), c=nn.Linear(24, 2),
    )  # fmt: skip
    assert sizes(check(net, _x())) == [4, 6]


def test_a_weight_of_which_each_half_has_a_role() -> None:
    net = Tiny(lambda s, x: F.linear(F.linear(x, s.w[:8]).relu(), s.w[8:].t()), w=weight(16, 5))
    assert sizes(check(net, _x())) == [8]


def test_a_loop_over_units() -> None:
    net = _net(lambda s, h: torch.stack([h[:, i] * i for i in range(8)], 1))
    assert sizes(check(net, _x())) == []


def test_an_operation_without_a_rule_keeps_what_it_touches() -> None:
    analysis = check(_net(lambda s, h: torch.renorm(h, 2, 0, 1.0)), _x(), batch=False)
    assert sizes(analysis) == []
    assert "operation" in codes(analysis)
    assert any("no rule" in str(fixed.reason) for fixed in analysis.fixed)


def test_type_as_and_to_follow_the_first_argument_alone() -> None:
    net = Tiny(
        lambda s, x: s.c(s.a(x).relu().type_as(g := s.b(x)).to(g)) + s.d(g.relu()),
        a=nn.Linear(5, 8), b=nn.Linear(5, 8), c=nn.Linear(8, 2), d=nn.Linear(8, 2),
    )  # fmt: skip
    assert sizes(check(net, _x())) == [8, 8]


def test_the_larger_of_two() -> None:
    net = Tiny(
        lambda s, x: s.c(torch.max(s.a(x), s.b(x)) + torch.min(s.a(x), s.b(x))),
        a=nn.Linear(5, 8), b=nn.Linear(5, 8), c=nn.Linear(8, 2),
    )  # fmt: skip
    assert sizes(check(net, _x())) == [8]


def test_branches_of_cond_are_kept_and_run() -> None:
    def middle(s: Tiny, h: Tensor) -> Tensor:
        return torch.cond(h.sum() > 0, lambda y: y * 2, lambda y: y - 1, (h,))

    from pliant.graph import analyze
    from pliant.graph.realise import difference, outputs, sliced_copy
    from pliant.graph.slicing import Slicing

    net, x = _net(middle).eval(), _x()
    analysis = analyze(net, (x,))
    assert sizes(analysis) == []
    assert "operation" in codes(analysis)
    got = outputs(sliced_copy(net, Slicing(analysis), "graph"), (x,), {})
    with torch.no_grad():
        wanted = net.b(net.a(x).relu() * 2)
    assert difference(got, [wanted]) < 1e-6


def test_a_rule_that_fails_costs_compression_only(monkeypatch: pytest.MonkeyPatch) -> None:
    from pliant.graph.rules import RULES

    def broken(t: object, call: object) -> None:
        raise ZeroDivisionError("by hand")

    monkeypatch.setitem(RULES, "cumsum", broken)
    analysis = check(_net(lambda s, h: h.cumsum(-1)), _x(), batch=False)
    assert sizes(analysis) == []
    assert any(f.reason.code == "rule" and "ZeroDivisionError" in f.reason.text for f in analysis.fixed)


def test_a_rule_with_wrong_sizes_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    from pliant.graph.rules import RULES

    monkeypatch.setitem(RULES, "flip", lambda t, call: t.set(call, t.of(call.first)[:1]))
    assert sizes(check(_net(lambda s, h: h.flip(-1)), _x(), batch=False)) == []
