from __future__ import annotations

import torch
from torch import nn

from tests.graph.support import Tiny, check, sizes


def test_what_is_asked_for_its_shape_alone_ties_nothing() -> None:
    """BART asks one unit of its embeddings for the number of tokens: that unit is not told apart by it."""

    def forward(s: Tiny, x: torch.Tensor) -> torch.Tensor:
        h = s.a(x)
        return s.b(h + s.places[: h[:, :, -1].shape[1]])

    net = Tiny(forward, a=nn.Linear(5, 8), b=nn.Linear(8, 2), places=nn.Parameter(torch.randn(6, 8)))
    assert sizes(check(net, torch.randn(2, 4, 5))) == [8]


def test_writes_in_place_stay_though_nothing_uses_their_result() -> None:
    def forward(s: Tiny, x: torch.Tensor) -> torch.Tensor:
        h = s.a(x)
        h[:, :2].zero_()
        h.relu_()
        return s.b(h)

    net = Tiny(forward, a=nn.Linear(5, 8), b=nn.Linear(8, 2))
    assert sizes(check(net, torch.randn(2, 4, 5))) == [8]
