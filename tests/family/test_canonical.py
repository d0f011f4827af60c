"""Configs with the same network have one canonical config, and no others have."""

from __future__ import annotations

from random import Random

import pytest
import torch
from torch import nn

from pliant.family import Family
from pliant.space import Config
from pliant.techniques.elastic.depth import Depth
from pliant.techniques.elastic.width import Width
from tests.family.nets import ConvNet


def _family(constraints: tuple[str, ...] = ()) -> Family:
    torch.manual_seed(0)
    net = ConvNet(blocks=3).eval()
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
    choices = [Width(ratios=(0.25, 0.5, 1.0), multiple=4, kinds=("width",)), Depth(least=0, per_block=True)]
    return Family(net, (torch.randn(2, 1, 8, 8),), choices, constraints=constraints)


def _content(family: Family, config: Config) -> tuple[tuple[str, bytes], ...]:
    state = family.extract(config).state_dict()
    return tuple((name, tensor.numpy().tobytes()) for name, tensor in state.items())


@pytest.mark.slow
def test_one_canonical_config_for_each_network() -> None:
    family = _family()
    configs = list(family.space.enumerate())
    assert len(configs) == 3**3 * 2**3
    networks: dict[tuple[tuple[str, bytes], ...], set[Config]] = {}
    for config in configs:
        networks.setdefault(_content(family, config), set()).add(family.canonical(config))
    assert all(len(same) == 1 for same in networks.values())
    assert len(set().union(*networks.values())) == len(networks) == 4**3
    assert all(family.canonical(next(iter(same))) in same for same in networks.values())


def test_constraints_still_hold(rng: Random) -> None:
    family = _family((f"{_family().space.choices[1].name} <= 8",))
    for _ in range(40):
        found = family.canonical(family.space.sample(rng))
        assert family.space.feasible(dict(found))
