from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from tests.graph.support import Tiny, check, codes, sizes

PLACES = torch.tensor([0, 2, 2])


def _rows(write) -> Tiny:
    """Write rows of hidden units (B, 3, 8) into (B, 4, 8) along the middle dimension."""

    def forward(s: Tiny, x: Tensor) -> Tensor:
        h = s.a(x).relu()
        return s.b(write(torch.zeros(h.shape[0], 4, h.shape[2]), h))

    return Tiny(forward, a=nn.Linear(5, 8), b=nn.Linear(8, 2))


def _into_units(write) -> Tiny:
    """Write into the hidden units themselves: their places count."""
    return Tiny(lambda s, x: s.b(write(s.a(x).relu())), a=nn.Linear(5, 8), b=nn.Linear(8, 2))


def _set(z: Tensor, h: Tensor) -> Tensor:
    z[:, torch.tensor([3, 1, 0])] = h
    return z


@pytest.mark.parametrize(
    "write",
    [
        lambda z, h: z.index_add(1, PLACES, h),
        lambda z, h: z.index_copy(1, torch.tensor([3, 1, 0]), h),
        lambda z, h: z.index_fill(1, PLACES, 2.0) + h.sum(1, keepdim=True),
        lambda z, h: z.scatter_add(1, PLACES[None, :, None].expand_as(h), h),
        lambda z, h: z.scatter(1, torch.tensor([3, 1, 0])[None, :, None].expand_as(h), h),
        lambda z, h: z.scatter_reduce(1, PLACES[None, :, None].expand_as(h), h, "amax"),
        lambda z, h: z.index_put((torch.arange(2)[:, None], PLACES[None]), h, accumulate=True),
        lambda z, h: z.transpose(0, 1).index_put((PLACES,), h.transpose(0, 1), accumulate=True).transpose(0, 1),
        _set,
    ],
)
def test_units_beside_the_written_places_bend(write) -> None:
    assert sizes(check(_rows(write), torch.randn(2, 3, 5), batch=False)) == [8]


@pytest.mark.parametrize(
    "write",
    [
        lambda h: h.index_add(-1, torch.tensor([1, 1]), h[..., :1].expand(-1, 2)),
        lambda h: h.scatter_add(1, torch.zeros(3, 1, dtype=torch.long), h[:, :1]),
        lambda h: h.index_put((torch.tensor([0, 1, 2]), torch.tensor([5, 5, 1])), torch.tensor(1.0)),
        lambda h: h.index_fill(1, torch.tensor([2, 3]), 0.5),
    ],
)
def test_units_that_are_written_by_place_stay(write) -> None:
    analysis = check(_into_units(write), torch.randn(3, 5), batch=False)
    assert sizes(analysis) == []
    assert "order" in codes(analysis)


def test_a_mask_that_is_written_through_follows_the_units() -> None:
    def fill(h: Tensor) -> Tensor:
        h = h.clone()
        h[h > 0.3] = 0.0
        return h

    assert sizes(check(_into_units(fill), torch.randn(3, 5))) == [8]
