from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tests.graph.support import Tiny, check, codes, sizes, weight


def _net(middle, out: int = 8, width: int = 8) -> Tiny:
    return Tiny(lambda s, x: s.b(middle(s.a(x).relu())), a=nn.Linear(5, width), b=nn.Linear(out, 2))


def test_cat_of_different_sources() -> None:
    net = Tiny(
        lambda s, x: s.out(torch.cat([s.a(x).relu(), x, s.b(x).relu()], 1)),
        a=nn.Linear(5, 4), b=nn.Linear(5, 6), out=nn.Linear(15, 2),
    )  # fmt: skip
    assert sizes(check(net, torch.randn(3, 5))) == [4, 6]


def test_cat_of_one_thing_twice() -> None:
    assert sizes(check(_net(lambda h: torch.cat([h, -h], -1).relu(), out=16), torch.randn(3, 5))) == [8]


def test_cat_along_the_batch_and_back() -> None:
    def middle(h: torch.Tensor) -> torch.Tensor:
        a, b = torch.cat([h, 2 * h]).chunk(2)
        return a + b

    assert sizes(check(_net(middle), torch.randn(3, 5))) == [8]


@pytest.mark.parametrize(
    "cut",
    [
        lambda h: h.split([3, 5], -1),
        lambda h: h.tensor_split([3], -1),
        lambda h: (h[:, :3], h[:, 3:]),
        lambda h: (h[:, :-5], h[:, -5:]),
        lambda h: (h.narrow(1, 0, 3), h.narrow(1, 3, 5)),
    ],
)
def test_segments_bend_apart(cut) -> None:
    """Literal sizes stand in the user's code: the module form writes others at its calls."""
    net = Tiny(
        lambda s, x: s.b((y := cut(s.a(x).relu()))[0]) + s.c(y[1]),
        a=nn.Linear(5, 8),
        b=nn.Linear(3, 2),
        c=nn.Linear(5, 2),
    )
    assert sizes(check(net, torch.randn(3, 5))) == [3, 5]


@pytest.mark.parametrize("cut", [lambda h: h.chunk(2, -1), lambda h: h.split(4, -1)])
def test_equal_segments_that_meet_are_one_axis(cut) -> None:
    net = _net(lambda h: (y := cut(h))[0] * y[1], out=4)
    assert sizes(check(net, torch.randn(3, 5))) == [4]


def test_a_segment_of_everything_is_everything() -> None:
    assert sizes(check(_net(lambda h: h[:, :8] + h[:, 0:100]), torch.randn(3, 5))) == [8]
    assert sizes(check(_net(lambda h: h.split(8, -1)[0]), torch.randn(3, 5))) == [8]


def test_every_other_unit() -> None:
    net = _net(lambda h: h[:, ::2] + h[:, 1::2], out=4)
    analysis = check(net, torch.randn(3, 5))
    assert sizes(analysis) == [4]
    assert "order" in codes(analysis)


def test_an_uneven_stride_is_kept() -> None:
    analysis = check(_net(lambda h: h[:, ::3], out=3), torch.randn(3, 5))
    assert sizes(analysis) == []
    assert "structure" in codes(analysis)


def test_units_taken_by_their_place_are_kept() -> None:
    assert sizes(check(_net(lambda h: h * h[:, :1] + h[:, 3, None]), torch.randn(3, 5))) == []


def test_stack_and_unbind() -> None:
    net = _net(lambda h: sum(torch.stack([h, 2 * h], 1).unbind(1)))
    assert sizes(check(net, torch.randn(3, 5))) == [8]


def test_a_fused_weight_that_is_stacked() -> None:
    net = Tiny(
        lambda s, x: s.out((y := s.qkv(x).view(*x.shape[:-1], 3, 8).unbind(-2))[0] * y[1] * y[2]),
        qkv=nn.Linear(5, 24), out=nn.Linear(8, 2),
    )  # fmt: skip
    analysis = check(net, torch.randn(4, 5))
    assert sizes(analysis) == [8]
    assert "order" in codes(analysis)


def test_gates() -> None:
    assert sizes(check(_net(lambda h: F.glu(h, -1), out=4), torch.randn(3, 5))) == [4]
    swiglu = _net(lambda h: F.silu(h[..., :4]) * h[..., 4:], out=4)
    assert sizes(check(swiglu, torch.randn(3, 5))) == [4]


def test_a_parameter_of_which_a_part_is_unused() -> None:
    net = Tiny(
        lambda s, x: s.b((s.a(x) + s.pos[:, : x.shape[1]]).relu()),
        a=nn.Linear(5, 8),
        pos=weight(1, 10, 8),
        b=nn.Linear(8, 2),
    )
    analysis = check(net, torch.randn(3, 6, 5))
    assert sizes(analysis) == [8]
    assert "unused" in codes(analysis)


def test_a_part_that_is_unused_stays_so_behind_other_operations() -> None:
    """DeBERTa normalises its table of relative positions before it takes those of the example's length."""
    net = Tiny(
        lambda s, x: s.b((s.a(x) + s.norm(s.pos)[:, : x.shape[1]]).relu()),
        a=nn.Linear(5, 8), pos=weight(1, 10, 8), norm=nn.LayerNorm(8), b=nn.Linear(8, 2),
    )  # fmt: skip
    analysis = check(net, torch.randn(3, 6, 5), mask=False)
    assert sizes(analysis) == [8]
    assert "unused" in codes(analysis)


def test_a_view_of_segments_with_a_common_inner_part() -> None:
    net = Tiny(
        lambda s, x: s.out(torch.cat([s.a(x).relu(), s.b(x).relu()], 1).view(-1, 5, 2).sum(-1)),
        a=nn.Linear(5, 4), b=nn.Linear(5, 6), out=nn.Linear(5, 2),
    )  # fmt: skip
    assert sizes(check(net, torch.randn(3, 5))) == [2, 2, 3]


def test_a_view_across_segments() -> None:
    net = Tiny(
        lambda s, x: s.out(torch.cat([s.a(x).relu(), s.b(x).relu()], 1).view(-1, 5, 2).sum(-1)),
        a=nn.Linear(5, 3), b=nn.Linear(5, 7), out=nn.Linear(5, 2),
    )  # fmt: skip
    analysis = check(net, torch.randn(3, 5))
    assert sizes(analysis) == []
    assert "structure" in codes(analysis)
