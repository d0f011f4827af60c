"""Running statistics: every member has its own, estimated from batches for the weights as they are."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pliant.family import Family
from pliant.family.statistics import estimate_statistics
from pliant.techniques.elastic.width import Width
from tests.family.nets import ConvNet, HardCodedNorm, ViT, images, vectors


def by_hand(batches: list[Tensor]) -> tuple[Tensor, Tensor]:
    """Return the mean over batches of each batch's mean and unbiased variance, per channel."""
    flat = [batch.movedim(1, 0).flatten(1) for batch in batches]
    return torch.stack([b.mean(1) for b in flat]).mean(0), torch.stack([b.var(1) for b in flat]).mean(0)


def pairs(count: int = 5) -> list[tuple[Tensor, None]]:
    return [(images(8, seed=k) * (k + 1), None) for k in range(count)]


def test_the_estimate_is_the_plain_average_over_batches() -> None:
    net: Any = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.9), nn.Flatten(), nn.Linear(144, 2))
    net[2].eval()
    inputs = [batch for batch, _ in pairs()]
    assert estimate_statistics(net, inputs) == 1
    with torch.no_grad():
        mean, var = by_hand([net[0](batch) for batch in inputs])
    assert torch.allclose(net[1].running_mean, mean, atol=1e-6)
    assert torch.allclose(net[1].running_var, var, rtol=1e-5)
    assert net[1].momentum == 0.1
    assert [module.training for module in net] == [True, True, False, True, True]


def test_layers_and_modes_are_as_before_when_a_batch_fails() -> None:
    net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4))
    net[0].eval()
    with pytest.raises(RuntimeError):
        estimate_statistics(net, [torch.zeros(1, 7, 8, 8)])
    assert net[1].momentum == 0.1
    assert (net[0].training, net[1].training) == (False, True)


def test_a_network_without_statistics_is_left_alone() -> None:
    assert estimate_statistics(nn.Linear(3, 2), [torch.zeros(1, 3)]) == 0
    family = Family(ViT(), (vectors(3, 4, 6),), [Width(multiple=4)])
    assert not family.uncalibrated


def make() -> Any:
    family = Family(ConvNet(), (images(),), [Width(multiple=4, kinds=("width", "stream"))])
    assert family.uncalibrated
    family.calibrate_with(pairs())
    assert not family.uncalibrated
    return family


def test_each_member_has_its_own() -> None:
    family = make()
    wide = {"stream": 16, "blocks.0.width": 16, "blocks.1.width": 16}
    configs = [wide, wide | {"stream": 8}, wide | {"blocks.0.width": 8}]
    nets = [family.ready(config) for config in configs]
    for net in nets:
        with torch.no_grad():
            mean, var = by_hand([net.stem(batch) for batch, _ in pairs()])
        assert torch.allclose(net.norm.running_mean, mean, atol=1e-5)
        assert torch.allclose(net.norm.running_var, var, rtol=1e-4)
    last = [net.blocks[1].norm2.running_var[:8] for net in nets]
    assert not torch.allclose(last[0], last[1])
    assert not torch.allclose(last[0], last[2])
    assert torch.equal(family.ready(configs[1]).blocks[1].norm2.running_var, nets[1].blocks[1].norm2.running_var)


def test_they_follow_the_weights() -> None:
    family = make()
    config = family.space.smallest()
    before = family.ready(config).norm.running_var.clone()
    assert torch.equal(family.ready(config).norm.running_var, before)
    optimizer = torch.optim.SGD(family.parameters(), lr=0.05)
    family.member(config)(images()).square().sum().backward()
    optimizer.step()
    after = family.ready(config)
    with torch.no_grad():
        _, var = by_hand([after.stem(batch) for batch, _ in pairs()])
    assert torch.allclose(after.norm.running_var, var, rtol=1e-4)
    assert not torch.allclose(after.norm.running_var, before)
    assert torch.equal(family.extract(config).norm.running_var, after.norm.running_var)


def test_they_follow_a_training_step_of_the_member_itself() -> None:
    family = make()
    config = family.space.smallest()
    before = family.ready(config).norm.running_var.clone()
    with torch.no_grad():
        family.member(config)(10 * images())  # in training mode: moves the member's statistics, not the weights
    assert torch.allclose(family.ready(config).norm.running_var, before)


def test_the_full_networks_own_statistics_are_not_those_of_members() -> None:
    family = make()
    before = {name: b.clone() for name, b in family.model.named_buffers()}
    family.ready(family.space.smallest())
    family.member(family.space.smallest())(images())
    assert all(torch.equal(b, before[name]) for name, b in family.model.named_buffers())


def test_ready_is_in_evaluation_mode_and_the_family_goes_on_as_it_was() -> None:
    family = make()
    assert not any(module.training for module in family.ready(family.space.smallest()).modules())
    assert all(module.training for module in family.model.modules())
    assert all(module.training for module in family.member(family.space.smallest()).modules())


def test_in_graph_form_too() -> None:
    family = Family(HardCodedNorm(), (vectors(3, 3, 4, 4),), [Width(multiple=4)])
    assert family.form == "graph"
    inputs = [vectors(8, 3, 4, 4, seed=k) * (k + 1) for k in range(4)]
    family.calibrate_with([(x, None) for x in inputs])
    random_state = torch.get_rng_state()
    for config in (family.space.smallest(), {"conv.width": 12}):
        net = family.ready(config)
        named = dict(net.named_parameters())
        with torch.no_grad():
            mean, var = by_hand(
                [nn.functional.conv2d(x, named["conv.weight"], named["conv.bias"], padding=1) for x in inputs]
            )
        assert torch.allclose(dict(net.named_buffers())["norm.running_mean"], mean, atol=1e-5)
        assert torch.allclose(dict(net.named_buffers())["norm.running_var"], var, rtol=1e-4)
    assert torch.equal(torch.get_rng_state(), random_state)
