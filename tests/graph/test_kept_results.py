from __future__ import annotations

import torch
from torch import Tensor, nn

from pliant.graph import analyze
from pliant.graph.realise import compare_forms, outputs, sliced_copy
from pliant.graph.slicing import Slicing


class Keeping(nn.Module):
    """Computes a table from its weights once while it evaluates, as LeViT does, and drops it when training begins."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(5, 8), nn.Linear(8, 2)
        self.table = nn.Parameter(torch.randn(3, 8))
        self.kept: Tensor | None = None

    def train(self, mode: bool = True) -> Keeping:
        if mode:
            self.kept = None
        return super().train(mode)

    def forward(self, x: Tensor) -> Tensor:
        if self.training or self.kept is None:
            self.kept = self.table[torch.tensor([0, 2])].sum(0)
        return self.b(self.a(x) * self.kept)


def test_what_a_module_keeps_while_evaluating_is_no_constant() -> None:
    net, x = Keeping().eval(), torch.randn(4, 5)
    before = net(x)  # from here on it keeps a tensor that hides where it comes from
    analysis = analyze(net, (x,))
    (axis,) = analysis.axes
    assert "table" in axis.parameters
    torch.testing.assert_close(net(x), before)  # nothing of the capture is left in it
    slicing = Slicing(analysis, {axis.name: [5, 1, 2]})
    assert compare_forms(net, slicing, analysis)[0] <= 1e-5
    assert outputs(sliced_copy(net, slicing, "module"), (x,), {})[0].shape == (4, 2)
    assert not net.training
