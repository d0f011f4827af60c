"""Parts of members that compute their weights: what they cost is what ships, and what ships is torch's own."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from pliant.family import Family
from pliant.family.computed import Computed, parameter_count, replace_module, settle_modules
from pliant.measure import Macs, Params
from pliant.techniques.elastic.kernel_size import KernelSize
from tests.family.nets import ConvNet, images


class Doubled(Computed):
    """Twice a layer's weight."""

    def __init__(self, whole: nn.Linear) -> None:
        super().__init__()
        self.whole = whole

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.linear(x, 2 * self.whole.weight, self.whole.bias)

    def settled(self) -> nn.Module:
        layer = nn.Linear(self.whole.in_features, self.whole.out_features)
        layer.weight, layer.bias = nn.Parameter(2 * self.whole.weight), self.whole.bias
        return layer


def test_parts_settle_once_wherever_they_are() -> None:
    shared: Any = nn.Linear(4, 4)
    net: Any = nn.Sequential(shared, nn.ReLU(), nn.Sequential(shared), nn.Linear(4, 2)).eval()
    x = torch.randn(3, 4)
    wanted = net[3](torch.relu(x @ (2 * shared.weight).t() + shared.bias) @ (2 * shared.weight).t() + shared.bias)
    replace_module(net, shared, Doubled(shared))
    assert isinstance(net[2][0], Doubled)
    assert parameter_count(net) == 4 * 4 + 4 + 4 * 2 + 2
    assert torch.allclose(net(x), wanted, atol=1e-6)
    settle_modules(net, net)
    assert [type(part) for part in net.modules()].count(nn.Linear) == 2
    assert net[0] is net[2][0]
    assert torch.allclose(net(x), wanted, atol=1e-6)
    assert not net[0].training


def test_members_that_compute_weights_are_measured_as_they_ship() -> None:
    """A live member holds the whole kernel, and computes the smaller one in every pass."""
    family, x = Family(ConvNet(), (images(),), [KernelSize(sizes=(1, 3))]), images()
    config = family.space.smallest()
    for objective in (Params(), Macs((x,))):
        shipped = objective.measure(family.extract(config)).value
        assert objective.measure(family.ready(config)).value == shipped
        assert objective.measure(family.evaluated(config)).value > shipped
    assert torch.allclose(family.ready(config)(x), family.evaluated(config)(x), atol=1e-6)
    assert family.ready(family.space.largest()) is family.model
