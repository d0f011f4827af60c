"""Elastic resolution: members against the network on images resized by hand, and which networks offer it."""

from __future__ import annotations

from pathlib import Path
from random import Random
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pliant import Macs, Rotation, SinglePath, at, export, load_task
from pliant.checks import NoEffectWarning, PliantError, WrongShapeError
from pliant.family import Family
from pliant.tasks import digits
from pliant.tasks.digits_convnet import DigitsConvNet
from pliant.techniques.elastic.kernel_size import KernelSize
from pliant.techniques.elastic.resolution import Resized, Resolution
from pliant.techniques.elastic.width import Width
from pliant.training import default_optimizer, train
from tests.family.nets import vectors

X = vectors(2, 3, 16, 24)


class Net(nn.Module):
    """``(B, 3, H, W) -> (B, 5)``: images are standardised, two convolutions, a mean over places."""

    mean: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.rand(3, 1, 1))
        self.first, self.norm = nn.Conv2d(3, 16, 5, padding=2), nn.BatchNorm2d(16)
        self.second, self.out = nn.Conv2d(16, 16, 3, stride=2, padding=1), nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.norm(self.first((x - self.mean) / 0.5)))
        return self.out(F.relu(self.second(y)).mean((2, 3)))


def small(x: Tensor, size: tuple[int, int]) -> Tensor:
    return F.interpolate(x, size, mode="bilinear", antialias=True)


def by_hand(net: Any, x: Tensor, size: tuple[int, int]) -> Tensor:
    """Return what the network gives where its first convolution gets smaller images."""
    y = F.relu(net.norm(net.first(small((x - net.mean) / 0.5, size))))
    return net.out(F.relu(net.second(y)).mean((2, 3)))


def family_of(*techniques: Any, net: nn.Module | None = None, **fields: Any) -> Any:
    torch.manual_seed(0)
    return Family(net or Net(), (X,), [Resolution(**fields), *techniques])


def test_members_are_the_network_on_smaller_images() -> None:
    family = family_of()
    (choice,) = family.space.choices
    assert (choice.name, choice.options) == ("first.resolution", (8, 12, 16))
    assert family.member(family.space.largest()) is family.model
    family.model.eval()
    for height, width in ((8, 12), (12, 16)):  # 0.75 of 24 is 18, in steps of four 16
        config = family.space.check({choice.name: height})
        wanted = by_hand(family.model, X, (height, width))
        assert torch.allclose(family.member(config)(X), wanted, atol=1e-6)
        assert torch.allclose(family.extract(config)(X), wanted, atol=1e-6)
    macs = Macs((X[:1],))
    for config, pixels in ((family.space.smallest(), 8 * 12), (family.space.largest(), 16 * 24)):
        convolutions = pixels * 3 * 25 * 16 + pixels // 4 * 16 * 9 * 16
        assert macs.measure(family.ready(config)).value == convolutions + 16 * 5


def test_gradients_are_those_of_the_network_on_smaller_images() -> None:
    family = family_of()
    config = family.space.smallest()
    family.member(config)(X).square().sum().backward()
    found = {name: p.grad.clone() for name, p in family.model.named_parameters()}
    torch.manual_seed(0)
    net = Net()
    by_hand(net, X, (8, 12)).square().sum().backward()
    for name, parameter in net.named_parameters():
        assert parameter.grad is not None
        assert torch.allclose(found[name], parameter.grad, atol=1e-5), name


def test_it_composes_with_widths_and_kernels_trains_and_is_stored(tmp_path: Path, rng: Random) -> None:
    family = family_of(Width(multiple=4), KernelSize())
    train(family, [(X, torch.tensor([0, 1]))] * 4, F.cross_entropy, steps=4, recipe=Rotation(period=2))
    family.calibrate_with([(X, None)])
    family.save(tmp_path / "family")
    loaded = Family.load(tmp_path / "family", Net())
    loaded.calibrate_with([(X, None)])
    for config in (family.space.smallest(), family.space.sample(rng)):
        assert torch.equal(loaded.extract(config)(X), family.extract(config)(X))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["onnx", "pt2"])
def test_members_are_exported(kind: str, tmp_path: Path) -> None:
    family = family_of()
    made = export(family.extract(family.space.smallest()), tmp_path / f"net.{kind}", (X,))
    assert made.max_error is not None
    assert made.max_error <= 1e-4
    assert made.dynamic_batch


class Twice(nn.Module):
    """Looks at the image through two convolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Conv2d(3, 4, 3), nn.Conv2d(3, 4, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.left(x).mean((2, 3)) + self.right(x).mean((2, 3))


class Masked(nn.Module):
    """Weighs the image by places before it looks at it."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.places = nn.Conv2d(3, 4, 3), nn.Parameter(torch.rand(16, 24))

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x * self.places).mean((2, 3))


class Again(nn.Module):
    """Calls its convolution a second time, on what it gave."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(self.conv(x)).mean((2, 3))


class Functional(nn.Module):
    """Has no module around its convolution but itself."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.rand(4, 3, 3, 3))

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.weight).mean((2, 3))


class Keyword(nn.Module):
    """Gives its convolution the image by name."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(input=x).mean((2, 3))


def nets() -> dict[str, nn.Module]:
    conv = nn.Conv2d(3, 4, 3, padding=1)
    return {
        "flattened": nn.Sequential(conv, nn.Flatten(), nn.Linear(4 * 16 * 24, 5)),
        "dense": nn.Sequential(conv, nn.ReLU(), nn.Conv2d(4, 2, 1)),
        "twice": Twice(),
        "places": Masked(),
        "again": Again(),
        "functional": Functional(),
    }


@pytest.mark.parametrize("name", nets())
def test_what_depends_on_its_places_is_not_offered(name: str) -> None:
    with pytest.warns(NoEffectWarning, match="nothing to bend"):
        Family(nets()[name], (X,), [Resolution()])


def test_an_image_may_be_given_by_keyword() -> None:
    family: Any = Family(Keyword(), (X,), [Resolution(ratios=(0.5,))])
    net = family.extract(family.space.smallest())
    assert torch.allclose(net(X), family.model.conv(small(X, (8, 12))).mean((2, 3)), atol=1e-6)


def test_only_where_it_is_placed() -> None:
    with pytest.warns(NoEffectWarning, match="nothing to bend"):
        Family(Net(), (X,), [at("second", Resolution())])


def test_what_makes_no_sense_says_so() -> None:
    for ratios in ((), (0.0,), (1.5,)):
        with pytest.raises(WrongShapeError, match="above 0 and at most 1"):
            Resolution(ratios=ratios)
    with pytest.raises(WrongShapeError, match="at least 1"):
        Resolution(multiple=0)
    family = family_of()
    family.form = "graph"
    with pytest.raises(PliantError, match="graphs of operations"):
        family.draft(family.space.smallest())


def test_images_of_other_sizes_are_brought_to_the_same() -> None:
    hook = Resized((4, 6))
    (image,), _ = hook(nn.Identity(), (vectors(2, 3, 31, 9),), {})
    assert image.shape == (2, 3, 4, 6)
    (image,), _ = hook(nn.Identity(), (torch.full((1, 1, 8, 12), 3.0),), {})
    assert torch.allclose(image, torch.full((1, 1, 4, 6), 3.0))


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_weights_that_learn_at_both_sizes_serve_both(seed: int) -> None:
    """Against weights that learnt as many steps from large images alone: those see small ones badly."""
    task, errors = load_task("digits:convnet"), []
    for both in (True, False):
        torch.manual_seed(seed)
        net = DigitsConvNet(widths=(8, 16), hidden=(8, 16), depths=(1, 1))
        learner = Family(net, digits.example_args(), [Resolution()] if both else [])
        optimizer = default_optimizer(learner.parameters(), 4e-3, 0.02)
        train(learner, digits.batches(seed), task.loss, steps=80, recipe=SinglePath(), optimizer=optimizer)
        family = Family(net, digits.example_args(), [Resolution()])
        family.calibrate_with(digits.batches(seed))
        errors.append(task.evaluate(family.ready(family.space.smallest()), "test")["error"])
    assert errors[0] < errors[1] - 10
