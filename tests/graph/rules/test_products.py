from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import pliant
from tests.graph.support import Tiny, check, codes, sizes, weight


def _two(function: Callable[..., Any], **parts: Any) -> Tiny:
    """A network of two layers side by side, ``a`` and ``c``, 5 to 8."""
    return Tiny(function, a=nn.Linear(5, 8), c=nn.Linear(5, 8), **parts)


@pytest.mark.parametrize(
    "compared",
    [
        lambda s, x: F.cosine_similarity(s.a(x), s.c(x), dim=-1),
        lambda s, x: F.cosine_similarity(s.a(x)[:, None], s.w[None], dim=2) @ s.out,
        lambda s, x: F.pairwise_distance(s.a(x), s.c(x), keepdim=True),
        lambda s, x: torch.linalg.vecdot(s.a(x), s.c(x)),
        lambda s, x: torch.dist(s.a(x), s.c(x)).view(1),
    ],
    ids=["cosine", "against each", "pairwise", "vecdot", "dist"],
)
def test_what_is_compared_bends(compared: Any) -> None:
    net = _two(compared, w=weight(6, 8), out=weight(6, 2))
    assert 8 in sizes(check(net, torch.randn(4, 5), mask=compared.__code__.co_names[0] != "F", batch=False))


def test_distances_to_prototypes() -> None:
    net = Tiny(
        lambda s, x: s.out((-torch.cdist(s.a(x), s.w)).exp()), a=nn.Linear(5, 8), w=weight(6, 8), out=nn.Linear(6, 2)
    )
    assert sizes(check(net, torch.randn(4, 5))) == [6, 8]


def test_products_by_other_names() -> None:
    def forward(s: Tiny, x: Tensor) -> Tensor:
        x = torch.tensordot(s.a(x).unsqueeze(1), s.t, dims=([2], [0])).relu()[:, 0]
        x = torch.inner(x, s.i).relu()
        return torch.addmv(s.bias, x, s.v)

    net = Tiny(
        forward, a=nn.Linear(5, 8), t=weight(8, 6), i=weight(7, 6), v=weight(7),
        bias=weight(1),
    )  # fmt: skip
    assert sizes(check(net, torch.randn(3, 5))) == [6, 7, 8]


def test_a_sum_of_products() -> None:
    net = Tiny(
        lambda s, x: torch.addbmm(s.c, s.a(x)[:, None], s.w), a=nn.Linear(5, 8), w=weight(4, 8, 2), c=weight(1, 2)
    )
    analysis = check(net, torch.randn(4, 5), batch=False)
    assert sizes(analysis) == [8]


def test_what_they_cost_is_measured() -> None:
    x = torch.randn(3, 5)
    net = Tiny(lambda s, x: torch.inner(s.a(x), s.w), a=nn.Linear(5, 8), w=weight(2, 8))
    family = pliant.Family(net, (x,), [pliant.Width(multiple=1)])
    assert pliant.Macs((x,)).count(family) is None
    assert pliant.Macs((x,)).measure(family.extract({"width": 4})).value == 3 * (5 * 4 + 4 * 2)


@pytest.mark.parametrize("stack", [torch.hstack, torch.column_stack])
def test_stacks_along_features(stack: Any) -> None:
    net = _two(lambda s, x: s.out(stack([s.a(x).relu(), s.c(x)])), out=nn.Linear(16, 2))
    assert sizes(check(net, torch.randn(4, 5))) == [8, 8]


def test_stacks_along_the_batch_and_of_vectors() -> None:
    net = _two(lambda s, x: s.out(torch.vstack([s.a(x).relu(), s.c(x)])), out=nn.Linear(8, 2))
    assert sizes(check(net, torch.randn(4, 5), batch=False)) == [8]
    net = _two(lambda s, x: s.out(torch.vstack([s.a(x).mean(0), s.c(x).mean(0)])), out=nn.Linear(8, 2))
    assert sizes(check(net, torch.randn(4, 5))) == []


def test_broadcast_tensors() -> None:
    net = _two(lambda s, x: s.out(torch.mul(*torch.broadcast_tensors(s.a(x), s.w))), w=weight(8), out=nn.Linear(8, 2))
    assert sizes(check(net, torch.randn(4, 5))) == [8]


def test_unpooling_knows_places_per_channel() -> None:
    def forward(s: Tiny, x: Tensor) -> Tensor:
        return s.b(F.max_unpool2d(*F.max_pool2d(s.a(x), 2, return_indices=True), (2, 2)))

    net = Tiny(forward, a=nn.Conv2d(1, 6, 1), b=nn.Conv2d(6, 2, 1))
    assert sizes(check(net, torch.randn(3, 1, 4, 4))) == [6]


def test_mirrored_features_are_kept() -> None:
    net = Tiny(lambda s, x: s.b(torch.flipud(s.a(x)).relu()), a=nn.Linear(5, 8), b=nn.Linear(8, 2))
    assert sizes(check(net, torch.randn(4, 5))) == [8]
    analysis = check(Tiny(lambda s, x: s.b(torch.fliplr(s.a(x))), a=net.a, b=net.b), torch.randn(4, 5))
    assert not sizes(analysis)
    assert "order" in codes(analysis)


def test_looking_up_along_another_dimension() -> None:
    def forward(s: Tiny, x: Tensor) -> Tensor:
        steps = s.a(x)
        return s.b(steps.take_along_dim((steps * 0).long()[:, :1], 1)[:, 0])

    net = Tiny(forward, a=nn.Linear(5, 8), b=nn.Linear(8, 2))
    assert sizes(check(net, torch.randn(3, 4, 5))) == [8]


def test_features_that_a_graph_spreads_are_widths() -> None:
    """A product with an adjacency that is given is no attention: what it spreads is no width of a head."""
    net = Tiny(lambda s, x, a: a @ s.out(F.elu(a @ s.hid(x))), hid=nn.Linear(5, 8), out=nn.Linear(8, 2))
    analysis = check(net, torch.randn(2, 6, 5), torch.rand(2, 6, 6))
    assert [(axis.kind, axis.size) for axis in analysis.axes] == [("width", 8)]
    net = Tiny(
        lambda s, x, a: s.out(torch.einsum("bij,bjd->bid", a, s.hid(x)).relu()),
        hid=nn.Linear(5, 8),
        out=nn.Linear(8, 2),
    )
    analysis = check(net, torch.randn(2, 6, 5), torch.rand(2, 6, 6))
    assert [(axis.kind, axis.size) for axis in analysis.axes] == [("width", 8)]
