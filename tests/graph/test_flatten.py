from __future__ import annotations

import torch
from torch import nn

from tests.graph.support import Tiny, check, codes, sizes


def test_what_is_asked_for_its_shape_alone_ties_nothing() -> None:
    """BART asks one unit of its embeddings for the number of tokens: that unit is not told apart by it."""

    def forward(s: Tiny, x: torch.Tensor) -> torch.Tensor:
        h = s.a(x)
        return s.b(h + s.places[: h[:, :, -1].shape[1]])

    net = Tiny(forward, a=nn.Linear(5, 8), b=nn.Linear(8, 2), places=nn.Parameter(torch.randn(6, 8)))
    assert sizes(check(net, torch.randn(2, 4, 5))) == [8]


def test_layers_whose_results_are_unused_follow_what_they_get() -> None:
    """BigBird's classifier runs its pooler for nothing."""

    def forward(s: Tiny, x: torch.Tensor) -> torch.Tensor:
        h = s.a(x)
        s.pooler(h[:, 0]).tanh()
        return s.b(h)

    net = Tiny(forward, a=nn.Linear(5, 8), pooler=nn.Linear(8, 6), b=nn.Linear(8, 2))
    analysis = check(net, torch.randn(2, 4, 5))
    assert sizes(analysis) == [8]
    assert "unused" in codes(analysis)  # what the pooler gives


def test_writes_in_place_stay_though_nothing_uses_their_result() -> None:
    def forward(s: Tiny, x: torch.Tensor) -> torch.Tensor:
        h = s.a(x)
        h[:, :2].zero_()
        h.relu_()
        return s.b(h)

    net = Tiny(forward, a=nn.Linear(5, 8), b=nn.Linear(8, 2))
    assert sizes(check(net, torch.randn(2, 4, 5))) == [8]
