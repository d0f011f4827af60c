"""Cells that are trees: copies, parts and operations that begin as nothing keep the function; the rest is refused."""

from __future__ import annotations

from functools import cache
from random import Random

import pytest
import torch
from torch import nn

import pliant
from pliant.checks import UnknownNameError, VerificationError, WrongShapeError
from pliant.family import Growth, TreeCell
from pliant.graph.primitives import KEEPING, PRIMITIVES, primitive
from pliant.space import Config
from pliant.space.trees import Node
from pliant.techniques.search.path_level import PathLevel
from tests.family.test_growth import data, error, train

IMAGES = torch.randn(3, 2, 7, 7)
DIGIT = (1, 8, 8)
SHARE = ("convolution 1", "separable 3", "max 3")


def blocks() -> nn.Module:
    """Convolutions with normalisation, whose statistics are not 0 and 1."""

    def block(inputs: int, outputs: int) -> nn.Module:
        return nn.Sequential(nn.Conv2d(inputs, outputs, 3), nn.BatchNorm2d(outputs), nn.ReLU())

    torch.manual_seed(0)
    net = nn.Sequential(block(2, 4), block(4, 9), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(9, 3))
    net.train()(torch.randn(32, 2, 7, 7))
    return net.eval()


@cache
def grown_blocks() -> Growth:
    """A cell in the place of a block, and one in the place of the convolution in it; and a width before both."""
    net = blocks()
    first = pliant.analyze(net, (IMAGES,)).axes[0].name
    inner = TreeCell(operations=SHARE, most=2)
    return Growth(net, (IMAGES,), {first: (6,)}, branches={"1.0": inner, "1": TreeCell(operations=SHARE, relu=True)})


def params(net: nn.Module) -> int:
    return sum(parameter.numel() for parameter in net.parameters())


def of_operation(name: str, features: int) -> int:
    return {"convolution 1": features**2 + features, "separable 3": 9 * features + features**2 + features}.get(name, 0)


def after(node: Node, config: Config, features: int) -> int:
    """The parameters of what follows a branch, counted by hand."""
    count = node.branches(config)
    shares = [features] * count
    if config[f"{node.name}.merge"] == "parts":
        shares = [features // 2 + features % 2, features // 2]
    total = 0
    for slot, share in zip(node.slots, shares, strict=False):
        total += of_operation(str(config[f"{slot.name}.operation"]), share)
        if slot.then is not None and config[f"{slot.name}.grow"]:
            total += after(slot.then, config, share)
    return total


def predicted(growth: Growth, config: Config) -> int:
    """The parameters of :func:`grown_blocks`, counted by hand."""
    first = int(config[growth.space.choices[0].name])  # type: ignore[arg-type]

    def copies(name: str, one: int, features: int, each: bool = True) -> int:
        node = growth._nodes[name]
        count, parts = node.branches(config), config[f"{name}.merge"] == "parts"
        shares = [features // 2 + features % 2, features // 2] if parts else [features] * count
        total = one if parts else one * count
        for slot, share in zip(node.slots, shares, strict=False):
            if slot.then is not None and config[f"{slot.name}.grow"]:
                total += after(slot.then, config, share)
        return total

    convolution = copies("1.0", 9 * (9 * first + 1), 9)
    return first * (9 * 2 + 1) + 2 * first + copies("1", convolution + 2 * 9, 9) + 3 * (9 + 1)


def kept(growth: Growth, config: Config) -> Config:
    """``config`` with nothing on the branches that pools."""
    return growth.space.check({name: "identity" if option == "max 3" else option for name, option in config.items()})


@pytest.mark.slow
def test_trees_keep_the_function_and_have_the_parameters_predicted(rng: Random) -> None:
    growth = grown_blocks()
    for _ in range(5):
        config = growth.space.sample(rng)
        net = growth.ready(config)
        assert params(net) == predicted(growth, config)
        assert growth.keeps(kept(growth, config))
        same = growth.ready(kept(growth, config))
        torch.testing.assert_close(same(IMAGES), growth.model(IMAGES), rtol=1e-5, atol=1e-5)
    pooled = {**growth.space.smallest(), "1.branches.0.grow": True, "1.branches.0.then.branches.0.operation": "max 3"}
    assert not growth.keeps(pooled)
    assert not torch.allclose(growth.ready(pooled)(IMAGES), growth.model(IMAGES), atol=1e-3)


@pytest.mark.slow
def test_a_trained_tree_grows_on_in_any_sequence(rng: Random) -> None:
    """Growths with the weights moved between: each computes what the one before does, and has the config's shapes."""
    growth = grown_blocks()
    for _ in range(2):
        before, net = growth.space.smallest(), growth.ready(growth.space.smallest())
        for _ in range(3):
            with torch.no_grad():
                for parameter in net.parameters():
                    parameter.add_(0.05 * torch.randn_like(parameter))
            config = kept(growth, growth.space.sample(rng))
            while growth._excess(before, config) is not None:  # not larger in everything
                part = kept(growth, growth.space.sample(rng))
                config = Config({name: before[name] if rng.random() < 0.7 else part[name] for name in before})
            child = growth.grown(net, before, config)
            torch.testing.assert_close(child(IMAGES), net(IMAGES), rtol=1e-4, atol=1e-5)
            assert params(child) == predicted(growth, config)
            assert child.state_dict().keys() == growth.ready(config).state_dict().keys()
            before, net = config, child


def test_what_is_settled_stays() -> None:
    growth = grown_blocks()
    start = {**growth.space.smallest(), "1.branches.0.grow": True}
    net = growth.ready(start)
    with pytest.raises(WrongShapeError, match="before anything else is put on them"):
        growth.grown(net, start, {**start, "1.merge": "mean"})
    mean = {**growth.space.smallest(), "1.merge": "mean"}
    with pytest.raises(WrongShapeError, match="as many from then on"):
        growth.grown(growth.ready(mean), mean, {**mean, "1.count": 3})
    wider = growth.grown(growth.ready(mean), mean, {**mean, "1.branches.1.grow": True})
    torch.testing.assert_close(wider(IMAGES), growth.model(IMAGES), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", sorted(PRIMITIVES))
@pytest.mark.parametrize("shape", [(2, 6), (2, 6, 9), (2, 6, 9, 9)])
def test_primitives_keep_the_shape_and_most_the_values(name: str, shape: tuple[int, ...]) -> None:
    x = torch.randn(shape).abs()
    if (name == "linear" and len(shape) > 2) or (name not in ("linear", "identity") and len(shape) == 2):
        with pytest.raises(WrongShapeError, match=f"operation '{name}' needs features"):
            primitive(name, shape)
        return
    made = primitive(name, shape, relu=True)
    assert made(x).shape == shape
    assert (name in KEEPING) == torch.allclose(made(x), x, atol=1e-6)
    noisy = primitive(name, shape, noise=0.1, seed=1), primitive(name, shape, noise=0.1, seed=2)
    weights = [parameter for parameter in noisy[0].parameters() if parameter.dim() > 1]
    assert all(not torch.equal(a, b) for a, b in zip(weights, noisy[1].parameters(), strict=False))
    if name in ("average 3", "max 3") and len(shape) == 4:
        inner = x[:, :, :3, :3].flatten(2)
        torch.testing.assert_close(made(x)[:, :, 1, 1], inner.mean(dim=2) if name == "average 3" else inner.amax(dim=2))


def test_operations_of_ones_own() -> None:
    net = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))
    x, drawn = torch.randn(4, 6), torch.get_rng_state()

    class Gate(nn.Module):
        def __init__(self, features: int) -> None:
            super().__init__()
            self.linear = nn.Linear(features, features)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x * self.linear(x).sigmoid()

    cell = TreeCell(operations=("linear",), dim=-1, own={"gate": Gate})
    growth = Growth(net, (x,), branches={"0": cell})
    found = growth.space.largest()
    assert found["0.branches.0.then.branches.0.operation"] == "gate"
    first, second = growth.ready(found), growth.ready(found)
    assert torch.equal(first(x), second(x))
    assert torch.equal(torch.get_rng_state(), drawn)  # nothing was drawn from the user's generator
    sizes = {module.linear.in_features for module in first.modules() if isinstance(module, Gate)}
    assert sizes == {2}  # parts of parts


def test_bad_requests() -> None:
    net = blocks()
    with pytest.raises(UnknownNameError, match="did you mean 'separable 3'"):
        TreeCell(operations=("seperable 3",))
    with pytest.raises(WrongShapeError, match="tuple of names"):
        TreeCell(operations="max 3")  # type: ignore[arg-type]
    with pytest.raises(WrongShapeError, match="'max 3' is taken"):
        TreeCell(own={"max 3": nn.Identity})
    with pytest.raises(WrongShapeError, match="at least 1"):
        TreeCell(levels=0)
    with pytest.raises(UnknownNameError, match="module"):
        Growth(net, (IMAGES,), branches={"seven": TreeCell()})
    with pytest.raises(WrongShapeError, match=r"gives \(3, 9, 2, 2\) where \(3, 9, 3, 3\) comes in"):
        Growth(net, (IMAGES,), branches={"1": TreeCell(own={"even": lambda n: nn.Conv2d(n, n, 2)})})
    with pytest.raises(WrongShapeError, match="does not run on the shape"):
        Growth(net, (IMAGES,), branches={"1": TreeCell(own={"eight": lambda n: nn.Conv2d(8, 8, 1)})})
    with pytest.raises(WrongShapeError, match="'separable 3' needs features in dimension 1"):
        Growth(net, (IMAGES,), branches={"4": TreeCell(operations=("separable 3",))})
    with pytest.raises(VerificationError, match="negative values"):
        Growth(net, (IMAGES,), branches={"1.0": TreeCell(relu=True)})


# ---- on digits -------------------------------------------------------------------------------------------------------
def convnet(seed: int, steps: int) -> nn.Module:
    torch.manual_seed(seed)
    net = nn.Sequential(
        nn.Sequential(nn.Conv2d(1, 8, 3, padding=1, stride=2), nn.ReLU()),
        nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.ReLU()),
        nn.Flatten(), nn.Linear(8 * 16, 10),
    )  # fmt: skip
    return train(net, steps, DIGIT)


@pytest.mark.slow
def test_cells_that_inherit_are_ahead_of_the_same_ones_drawn_anew() -> None:
    """Cells drawn at random, pooling among their operations: after as many steps, with and without the weights."""
    ahead = []
    x, _ = data(DIGIT)
    for seed in range(5):
        growth = Growth(convnet(seed, 150), (x[:4],), branches={"1": TreeCell(relu=True)}, noise=0.01, seed=seed)
        config = growth.space.sample(Random(seed))
        child, scratch = growth.ready(config), growth.ready(config)
        torch.manual_seed(seed)
        for module in scratch.modules():
            if isinstance(module, (nn.Linear, nn.Conv2d)):
                module.reset_parameters()
        ahead.append(error(train(scratch, 60, DIGIT), DIGIT) - error(train(child, 60, DIGIT), DIGIT))
    assert sum(ahead) / 5 > 1
    assert sum(each > 0 for each in ahead) >= 4


@pytest.mark.slow
def test_the_tree_controller_searches_cells_that_inherit() -> None:
    x, _ = data(DIGIT)
    growth = Growth(convnet(0, 60), (x[:4],), branches={"1": TreeCell(operations=SHARE, relu=True)}, noise=0.01)
    metric = pliant.Metric("error", lambda net: error(train(net, 10, DIGIT), DIGIT))
    study = pliant.search(growth, [metric], 6, searcher=PathLevel(batch=2, hidden=8), seed=1)
    assert len({trial.config for trial in study.trials}) == 6
    again = pliant.search(growth, [metric], 6, searcher=PathLevel(batch=2, hidden=8), seed=1)
    assert [trial.config for trial in again.trials] == [trial.config for trial in study.trials]
