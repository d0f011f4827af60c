"""A space of growths: children inherit what the parent learnt."""

from __future__ import annotations

import pytest
import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional as F

import pliant
from pliant.checks import VerificationError, WrongShapeError
from pliant.family import Growth


def data() -> tuple[torch.Tensor, torch.Tensor]:
    images, labels = load_digits(return_X_y=True)
    return torch.tensor(images, dtype=torch.float32) / 16, torch.tensor(labels)


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(64, 12), nn.ReLU(), nn.Linear(12, 12), nn.ReLU(), nn.Linear(12, 10))


def train(net: nn.Module, steps: int) -> nn.Module:
    images, labels = data()
    optimizer = torch.optim.Adam(net.parameters(), lr=3e-3)
    net.train()
    for step in range(steps):
        rows = torch.arange(step * 64, (step + 1) * 64) % 1400
        optimizer.zero_grad()
        F.cross_entropy(net(images[rows]), labels[rows]).backward()
        optimizer.step()
    return net.eval()


def error(net: nn.Module) -> float:
    images, labels = data()
    with torch.no_grad():
        return 100 * float((net(images[1400:]).argmax(dim=1) != labels[1400:]).float().mean())


def names(net: nn.Module) -> list[str]:
    return [axis.name for axis in pliant.analyze(net, (torch.randn(4, 64),)).axes]


def test_every_growth_starts_where_the_parent_is() -> None:
    parent = train(network(), 100)
    axes = names(parent)
    growth = Growth(parent, (torch.randn(4, 64),), dict.fromkeys(axes, (16, 20)), after=["1", "3"])
    x, _ = data()
    for config in growth.space.enumerate():
        torch.testing.assert_close(growth.ready(config)(x), parent(x), rtol=1e-3, atol=1e-4)
    assert growth.space.size == 3 ** len(axes) * 4


def test_a_grown_child_is_ahead_of_one_from_scratch() -> None:
    parent = train(network(), 200)
    axes = names(parent)
    growth = Growth(parent, (torch.randn(4, 64),), dict.fromkeys(axes, (24,)), after=["3"], noise=0.01)
    child = growth.ready(growth.space.largest())
    torch.manual_seed(1)
    scratch = nn.Sequential(
        nn.Linear(64, 24), nn.ReLU(), nn.Linear(24, 24), nn.ReLU(), nn.Linear(24, 24), nn.ReLU(), nn.Linear(24, 10)
    )
    assert error(child) <= error(parent) + 1.0  # before any training
    assert error(train(child, 60)) < error(train(scratch, 60))


def test_it_can_be_searched() -> None:
    parent = train(network(), 50)
    growth = Growth(parent, (torch.randn(4, 64),), dict.fromkeys(names(parent), (16, 24)), after=["1"])
    metric = pliant.Metric("error", lambda net: error(train(net, 5)))
    study = pliant.search(growth, [metric, pliant.Params()], 6)
    assert len(study.trials) == 6
    assert len(study.front) >= 1


def test_bad_requests() -> None:
    net = network()
    with pytest.raises(WrongShapeError, match="nothing can grow"):
        Growth(net, (torch.randn(4, 64),))
    with pytest.raises(WrongShapeError, match="can only grow"):
        Growth(net, (torch.randn(4, 64),), {names(net)[0]: (4,)})
    gelu = nn.Sequential(nn.Linear(64, 12), nn.GELU(), nn.Linear(12, 10))
    with pytest.raises(VerificationError):
        Growth(gelu, (torch.randn(4, 64),), after=["1"])
