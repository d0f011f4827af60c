from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tests.graph.support import Tiny, check, codes, sizes, weight


def _net(middle, out: int = 12, width: int = 12) -> Tiny:
    return Tiny(lambda s, x: s.b(middle(s.a(x).relu())), a=nn.Linear(5, width), b=nn.Linear(out, 2))


def _x() -> torch.Tensor:
    return torch.randn(4, 5)


@pytest.mark.parametrize(
    "middle",
    [
        lambda h: h.view(len(h), 3, 4).transpose(1, 2).reshape(len(h), 12),
        lambda h: h.unflatten(1, (3, 4)).swapaxes(1, 2).flatten(1),
        lambda h: h.reshape(-1, 3, 4).permute(0, 2, 1).contiguous().view(-1, 12),
        lambda h: h.reshape(-1, 3, 4).movedim(-1, 1).reshape(-1, 12),
        lambda h: h.reshape(-1, 3, 4).mT.reshape(-1, 12),
    ],
)
def test_views_show_the_factors(middle) -> None:
    assert sizes(check(_net(middle), _x())) == [3, 4]


def test_a_view_without_meaning_shows_nothing() -> None:
    assert sizes(check(_net(lambda h: h[None].squeeze(0).t().T.unsqueeze(1).flatten(1)), _x())) == [12]
    assert sizes(check(_net(lambda h: h.view_as(h).reshape_as(h)), _x())) == [12]


def test_views_that_cross_are_kept() -> None:
    analysis = check(
        _net(lambda h: h.view(-1, 4, 3).sum(2) @ torch.ones(4, 1) + h.view(-1, 3, 4).sum(2).sum(1, True), 1), _x()
    )
    assert sizes(analysis) in ([], [2, 2, 3])


def test_squeeze_leaves_a_unit_that_was_cut_to_one() -> None:
    net = _net(
        lambda h: h.unsqueeze(1).squeeze().squeeze(1) if h.dim() > 5 else h.unsqueeze(1).squeeze(), width=2, out=2
    )
    analysis = check(net, _x(), form="graph")
    assert sizes(analysis) == [2]


@pytest.mark.parametrize("expand", ["expand", "expand_as", "broadcast_to", "repeat", "repeat_interleave", "tile"])
def test_one_unit_becomes_many(expand: str) -> None:
    many = {
        "expand": lambda g, h: g.expand(-1, 12),
        "expand_as": lambda g, h: g.expand_as(h),
        "broadcast_to": lambda g, h: g.broadcast_to(h.shape),
        "repeat": lambda g, h: g.repeat(1, 12),
        "repeat_interleave": lambda g, h: g.repeat_interleave(12, dim=1),
        "tile": lambda g, h: g.tile(1, 12),
    }[expand]
    net = Tiny(
        lambda s, x: s.b((h := s.a(x).relu()) * many(s.g(x), h)),
        a=nn.Linear(5, 12), g=nn.Linear(5, 1), b=nn.Linear(12, 2),
    )  # fmt: skip
    assert sizes(check(net, _x())) == [12]


def test_expand_as_ties_to_the_tensor_whose_size_it_reads() -> None:
    """The sizes of b decide at run time; without a tie, a and b could be cut apart and would not fit."""
    net = Tiny(
        lambda s, x: s.out(s.g(x).expand_as(s.b(x)) * s.a(x)) + s.rest(s.b(x)),
        a=nn.Linear(5, 8), b=nn.Linear(5, 8), g=nn.Linear(5, 1), out=nn.Linear(8, 2), rest=nn.Linear(8, 2),
    )  # fmt: skip
    assert sizes(check(net, _x())) == [8]


@pytest.mark.parametrize(
    "many", [lambda h: h.repeat(1, 3), lambda h: h.repeat_interleave(3, 1), lambda h: h.tile((3,))]
)
def test_repeats_bend_and_what_is_repeated(many) -> None:
    assert sizes(check(_net(many, out=12, width=4), _x())) == [3, 4]


def test_repeats_of_what_is_kept_are_kept() -> None:
    net = Tiny(
        lambda s, x: s.b((s.a(x).repeat_interleave(3, 1) + s.p).relu().mean(1)),
        a=nn.Linear(5, 8), b=nn.Linear(8, 2), p=nn.Parameter(torch.randn(12, 8)),
    )  # fmt: skip
    analysis = check(net, torch.randn(3, 4, 5))
    assert sizes(analysis) == [8]
    assert "repeat" in codes(analysis)


def test_new_tensors_follow() -> None:
    def forward(s: Tiny, x: torch.Tensor) -> torch.Tensor:
        h = s.a(x).relu()
        acc = torch.zeros(x.shape[0], 8) + h.new_ones(8) + torch.zeros_like(h) + x.new_full((x.shape[0], 8), 0.5)
        return s.b((acc - 1.5) * h)

    assert sizes(check(Tiny(forward, a=nn.Linear(5, 8), b=nn.Linear(8, 2)), _x())) == [8]


def test_counted_units_are_kept() -> None:
    analysis = check(_net(lambda h: h * torch.arange(12) + torch.linspace(0, 1, 12)), _x())
    assert sizes(analysis) == []
    assert "order" in codes(analysis)


def test_a_batch_that_is_counted_stays_dynamic() -> None:
    def forward(s: Tiny, x: torch.Tensor) -> torch.Tensor:
        h = s.a(x).relu()
        return s.b(h[torch.arange(x.shape[0]), -1])

    assert sizes(check(Tiny(forward, a=nn.Linear(5, 8), b=nn.Linear(8, 2)), torch.randn(4, 3, 5))) == [8]


def test_a_view_of_another_type_is_no_resizing() -> None:
    net = _net(lambda h: h.view(torch.int32).view(torch.float32))
    check(net, _x())


def test_rotation_by_complex_numbers() -> None:
    def forward(s: Tiny, x: torch.Tensor) -> torch.Tensor:
        h = s.a(x)
        turned = torch.view_as_complex(h.reshape(*h.shape[:-1], -1, 2)) * torch.view_as_complex(s.freqs)
        return s.b(torch.view_as_real(turned).flatten(-2))

    net = Tiny(forward, a=nn.Linear(5, 8), b=nn.Linear(8, 2), freqs=weight(4, 2))
    analysis = check(net, _x())
    assert sizes(analysis) == [4]
    assert "complex" in codes(analysis)


def test_meshgrid() -> None:
    net = Tiny(
        lambda s, x: s.b((s.a(x).relu()[:, :, None] * torch.meshgrid(s.p, s.q, indexing="ij")[0]).flatten(1)),
        a=nn.Linear(5, 4), p=weight(4), q=weight(3), b=nn.Linear(12, 2),
    )  # fmt: skip
    assert sizes(check(net, _x())) == [3, 4]


def test_windows_of_a_sequence_bend_in_width_only() -> None:
    def forward(s: Tiny, x: torch.Tensor) -> torch.Tensor:
        h = s.a(x)
        h = h.view(h.shape[0], 2, 3, h.shape[-1]).flatten(0, 1)
        h = torch.softmax(h @ h.transpose(1, 2), -1) @ h
        return s.b(h.view(-1, 6, h.shape[-1]).mean(1))

    net = Tiny(forward, a=nn.Linear(5, 8), b=nn.Linear(8, 2))
    assert sizes(check(net, torch.randn(2, 6, 5))) == [8]


def test_padding_of_the_batch_is_no_crash() -> None:
    check(_net(lambda h: F.pad(h, (0, 0, 0, 1))[:-1]), _x(), batch=False)


def test_a_repeat_that_says_how_long_it_gets() -> None:
    net = Tiny(
        lambda s, x: s.b((h := s.a(x).relu()).repeat_interleave(3, -1, output_size=3 * h.shape[-1])),
        a=nn.Linear(5, 4), b=nn.Linear(12, 2),
    )  # fmt: skip
    assert sizes(check(net, torch.randn(3, 5))) == [3, 4]
