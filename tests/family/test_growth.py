"""A space of growths: children inherit what the parent learnt."""

from __future__ import annotations

from functools import cache
from random import Random

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional as F

import pliant
from pliant.checks import UnknownNameError, VerificationError, WrongShapeError
from pliant.family import Growth
from pliant.space import Config
from pliant.techniques.search.eas import Eas


def data(shape: tuple[int, ...] = (64,)) -> tuple[torch.Tensor, torch.Tensor]:
    images, labels = load_digits(return_X_y=True)
    return torch.tensor(images, dtype=torch.float32).reshape(-1, *shape) / 16, torch.tensor(labels)


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(64, 12), nn.ReLU(), nn.Linear(12, 12), nn.ReLU(), nn.Linear(12, 10))


def train(net: nn.Module, steps: int, shape: tuple[int, ...] = (64,)) -> nn.Module:
    images, labels = data(shape)
    optimizer = torch.optim.Adam(net.parameters(), lr=3e-3, fused=True)
    net.train()
    for step in range(steps):
        rows = torch.arange(step * 64, (step + 1) * 64) % 1400
        optimizer.zero_grad()
        F.cross_entropy(net(images[rows]), labels[rows]).backward()
        optimizer.step()
    return net.eval()


def error(net: nn.Module, shape: tuple[int, ...] = (64,)) -> float:
    images, labels = data(shape)
    with torch.no_grad():
        return 100 * float((net(images[1400:]).argmax(dim=1) != labels[1400:]).float().mean())


def names(net: nn.Module) -> list[str]:
    return [axis.name for axis in pliant.analyze(net, (torch.randn(4, 64),)).axes]


def blocks() -> nn.Module:
    """Convolutions with normalisation, whose statistics are not 0 and 1."""

    def block(inputs: int, outputs: int) -> nn.Module:
        return nn.Sequential(nn.Conv2d(inputs, outputs, 3), nn.BatchNorm2d(outputs), nn.ReLU())

    torch.manual_seed(0)
    net = nn.Sequential(block(2, 4), block(4, 8), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3))
    net.train()(torch.randn(32, 2, 7, 7))
    return net.eval()


IMAGES = torch.randn(3, 2, 7, 7)


@cache
def tree() -> Growth:
    net = blocks()
    first, second = (axis.name for axis in pliant.analyze(net, (IMAGES,)).axes)
    return Growth(
        net, (IMAGES,), {first: (6, 7), second: (12, 16)}, {"0.2": 1, "1.2": 1}, {"1": 1, "1.0": 2}
    )  # fmt: skip


def params(net: nn.Module) -> int:
    return sum(parameter.numel() for parameter in net.parameters())


def predicted(growth: Growth, config: Config) -> int:
    """The parameters of a tree, counted by hand."""
    first, second = (int(config[choice.name]) for choice in growth.space.choices[:2])  # type: ignore[arg-type]

    def convolutions(address: str, outputs: int) -> int:
        kind = config.get(f"1.0{address}.paths", "one")
        if kind == "one":
            return outputs * (9 * first + 1)
        return sum(convolutions(f"{address}.branches.{at}", outputs // (1 + (kind == "parts"))) for at in range(2))

    block = convolutions("", second) + 2 * second + bool(config["1.2.deeper"]) * second * (9 * second + 1)
    copies = 2 if config["1.paths"] == "mean" else 1
    start = first * (2 * 9 + 1) + 2 * first + bool(config["0.2.deeper"]) * first * (9 * first + 1)
    return start + copies * block + 3 * (second + 1)


@pytest.mark.slow
def test_topologies_keep_the_function_and_have_the_parameters_predicted(rng: Random) -> None:
    growth = tree()
    assert [choice.name for choice in growth.space.choices[4:]] == [
        "1.paths", "1.0.paths", "1.0.branches.0.paths", "1.0.branches.1.paths"
    ]  # fmt: skip
    assert growth.space.choices[4].options == ("one", "mean")  # a block is no layer whose outputs can be shared out
    for _ in range(4):
        config = growth.space.sample(rng)
        net = growth.ready(config)
        torch.testing.assert_close(net(IMAGES), growth.model(IMAGES), rtol=1e-5, atol=1e-5)
        assert params(net) == predicted(growth, config)


def test_branches_that_are_not_there_do_not_count() -> None:
    growth = tree()
    names = [choice.name for choice in growth.space.choices]
    config = growth.space.check({**growth.space.smallest(), "1.0.branches.1.paths": "mean"})
    assert params(growth.ready(config)) == params(growth.model)
    [active, canonical] = growth.counts.active(growth.space.indices([config])), growth.counts.canonical
    assert [name for name, matters in zip(names, active[0], strict=True) if not matters] == names[-2:]
    rows = growth.space.indices([config, growth.space.smallest()])
    assert np.array_equal(*canonical(rows))


@pytest.mark.slow
def test_a_trained_network_grows_on_in_any_sequence(rng: Random) -> None:
    """Three growths, the weights moved between: each computes what the one before does, and has the config's shapes."""
    growth = tree()
    for _ in range(3):
        before, net = growth.space.smallest(), growth.ready(growth.space.smallest())
        for _ in range(3):
            with torch.no_grad():
                for parameter in net.parameters():
                    parameter.add_(0.05 * torch.randn_like(parameter))
            config = growth.space.sample(rng)
            while growth._excess(before, config) is not None:  # not larger in everything
                part = growth.space.sample(rng)
                config = Config({name: rng.choice([before[name], part[name]]) for name in before})
            child = growth.grown(net, before, config)
            torch.testing.assert_close(child(IMAGES), net(IMAGES), rtol=1e-4, atol=1e-5)
            assert params(child) == predicted(growth, config)
            assert child.state_dict().keys() == growth.ready(config).state_dict().keys()
            before, net = config, child


def test_what_was_kept_is_what_later_networks_grow_from() -> None:
    parent = train(network(), 50)
    growth = Growth(parent, (torch.randn(4, 64),), dict.fromkeys(names(parent), (16, 24)), branches={"2": 1}, noise=0.0)
    small, large = growth.space.smallest(), growth.space.largest()
    net = train(growth.ready(small), 100)
    growth.keep(net)
    x, _ = data()
    torch.testing.assert_close(growth.ready(large)(x), net(x), rtol=1e-3, atol=1e-4)
    assert error(growth.ready(large)) < error(parent)
    growth.keep(growth.ready(large))
    torch.testing.assert_close(growth.ready(small)(x), net(x))  # it cannot grow from the large one
    with pytest.raises(WrongShapeError, match="can be kept"):
        growth.keep(parent)
    with pytest.raises(WrongShapeError, match="can only grow, from 24"):
        growth.grown(growth.ready(large), large, small)


@pytest.mark.slow
def test_a_controller_searches_what_inherits() -> None:
    """Each network is trained a little more than the one it grew from; so the last are far ahead of the first."""
    parent = train(network(), 20)
    growth = Growth(
        parent, (torch.randn(4, 64),), dict.fromkeys(names(parent), (16, 24)), ["1"], {"2": 1}, noise=0.01
    )  # fmt: skip

    def measure(net: nn.Module) -> float:
        found = error(train(net, 20))
        growth.keep(net)
        return found

    study = pliant.search(growth, [pliant.Metric("error", measure)], 8, searcher=Eas(children=2, batch=2), seed=1)
    values = [trial.values["error"] for trial in study.trials]
    assert study.trials[0].config == growth.space.smallest()
    assert min(values[4:]) < 0.8 * values[0]


@pytest.mark.slow
def test_branches_that_inherit_are_ahead_of_the_same_ones_drawn_anew() -> None:
    ahead = []
    for seed in range(5):
        torch.manual_seed(seed)
        base = nn.Sequential(
            nn.Linear(64, 12), nn.ReLU(), nn.Sequential(nn.Linear(12, 12), nn.ReLU()), nn.Linear(12, 10)
        )
        parent = train(base, 100)
        growth = Growth(parent, (torch.randn(4, 64),), branches={"2": 2}, noise=0.05, seed=seed)
        child, scratch = growth.ready(growth.space.largest()), growth.ready(growth.space.largest())
        for module in scratch.modules():
            if isinstance(module, nn.Linear):
                module.reset_parameters()
        ahead.append(error(train(scratch, 60)) - error(train(child, 60)))
    assert min(ahead) > 0


@pytest.mark.slow
def test_a_child_is_where_its_parent_was_sooner_than_one_from_scratch() -> None:
    for seed in range(5):
        torch.manual_seed(seed)
        parent = train(nn.Sequential(nn.Linear(64, 12), nn.ReLU(), nn.Linear(12, 10)), 100)
        growth = Growth(
            parent, (torch.randn(4, 64),), dict.fromkeys(names(parent), (24,)), ["1"], noise=0.05, seed=seed
        )
        child = growth.ready(growth.space.largest())
        scratch = nn.Sequential(
            nn.Linear(64, 24), nn.Sequential(nn.ReLU(), nn.Linear(24, 24), nn.ReLU()), nn.Linear(24, 10)
        )
        assert params(scratch) == params(child)
        goal, epochs = error(parent), []
        for net in (child, scratch):
            epochs.append(next(epoch for epoch in range(1, 50) if error(train(net, 22)) <= goal))
        assert epochs[0] < epochs[1]


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


@pytest.mark.slow
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
    with pytest.raises(UnknownNameError, match="module"):
        Growth(net, (torch.randn(4, 64),), branches={"seven": 1})
    with pytest.raises(WrongShapeError, match="at least once"):
        Growth(net, (torch.randn(4, 64),), branches={"2": 0})
    gelu = nn.Sequential(nn.Linear(64, 12), nn.GELU(), nn.Linear(12, 10))
    with pytest.raises(VerificationError):
        Growth(gelu, (torch.randn(4, 64),), after=["1"])
