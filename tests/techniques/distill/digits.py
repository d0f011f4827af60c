"""What the tests of distillers share: small networks of several architectures, digits, and runs that are killed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pliant.family import Family
from pliant.technique import Recipe
from pliant.training import Progress, train


class Taught(Recipe):
    """Ordinary distillation: the largest member learns from the run's teacher, and from the labels."""

    def __init__(self, share: float = 1.0) -> None:
        self.share = share

    def step(self, turn: Any) -> None:
        turn.learn(turn.space.largest(), teacher=turn.taught(), share=self.share)


class InPlace(Recipe):
    """The largest member learns from the labels, the smallest from the largest."""

    def step(self, turn: Any) -> None:
        teacher = turn.learn(turn.space.largest())
        turn.learn(turn.space.smallest(), teacher=teacher)


class Stopped(Exception):  # noqa: N818
    """Stands for a kill."""


class Residual(nn.Module):
    """``(B, C, H, W)`` to the same: a convolution beside a shortcut."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return x + torch.relu(self.conv(x))


def convnet(width: int = 8, depth: int = 3, outputs: int = 10) -> nn.Sequential:
    """``(B, 1, 8, 8) -> (B, outputs)``."""
    blocks = (Residual(width) for _ in range(depth))
    stem = nn.Conv2d(1, width, 3, 2, 1)
    return nn.Sequential(stem, *blocks, nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(4 * width, outputs))


def perceptron(width: int = 32, depth: int = 2, outputs: int = 10) -> nn.Sequential:
    """``(B, 1, 8, 8) -> (B, outputs)``."""
    layers: list[nn.Module] = [nn.Flatten(), nn.Linear(64, width), nn.ReLU()]
    for _ in range(depth - 1):
        layers += [nn.Linear(width, width), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(width, outputs))


def images(batch: int = 6, seed: int = 0) -> Tensor:
    """Noise of the digits' shape."""
    return torch.randn(batch, 1, 8, 8, generator=torch.Generator().manual_seed(seed))


def noise(start: int = 0) -> Iterator[Any]:
    """Batches of noise with random labels, from any step on."""
    while True:
        labels = torch.randint(0, 10, (6,), generator=torch.Generator().manual_seed(start + 1000))
        yield images(6, start), labels
        start += 1


@cache
def digits() -> dict[str, tuple[Tensor, Tensor]]:
    """Real digits ``(N, 1, 8, 8)`` and labels: 1,000 to learn from, 797 to test on."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    x = torch.tensor(bunch.images, dtype=torch.float32)[:, None] / 8 - 1
    y = torch.tensor(bunch.target)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    return {"train": (x[order[:1000]], y[order[:1000]]), "test": (x[order[1000:]], y[order[1000:]])}


def batches_of(count: int = 1000, size: int = 64) -> Callable[[int], Iterator[Any]]:
    """Return batches of the first ``count`` digits to learn from, from any step on."""
    x, y = digits()["train"]

    def batches(start: int) -> Iterator[Any]:
        while True:
            chosen = torch.randint(0, count, (size,), generator=torch.Generator().manual_seed(start))
            yield x[chosen], y[chosen]
            start += 1

    return batches


def fit(net: nn.Module, steps: int, count: int = 1000, lr: float = 3e-3, **how: Any) -> nn.Module:
    """Train a network on digits, with a recipe and a teacher in ``how`` or from the labels alone."""
    family = Family(net, (images(4),))
    recipe = how.pop("recipe", Taught(1.0))
    optimizer = torch.optim.AdamW(net.parameters(), lr=lr, fused=True)
    train(family, batches_of(count), F.cross_entropy, steps=steps, recipe=recipe, optimizer=optimizer, **how)
    return net.eval()


def error(net: nn.Module) -> float:
    """Return the share of wrong labels on the test digits."""
    x, y = digits()["test"]
    with torch.no_grad():
        return float((net.eval()(x).argmax(1) != y).float().mean())


def check_kill(make: Callable[[], nn.Module], teacher: nn.Module, distiller: Any, folder: Path) -> Any:
    """Train once whole and once killed in the middle, and compare the weights and what was trained beside them."""

    class Watched(type(distiller)):  # type: ignore[misc]
        def start(self, *args: Any) -> Any:
            made.append(super().start(*args))
            return made[-1]

    made: list[Any] = []
    watched = Watched(**vars(distiller))

    def run(folder: Path, seed: int, stop: int = 0) -> nn.Module:
        torch.manual_seed(seed)
        net = make()
        family = Family(net, (images(4),))

        def on_step(progress: Progress) -> None:
            if progress.step == stop:
                raise Stopped

        train(family, noise, F.cross_entropy, steps=6, recipe=Taught(), teacher=teacher, distiller=watched,
              optimizer=torch.optim.AdamW(net.parameters(), lr=0.01), folder=folder, save_every=2,
              on_step=on_step)  # fmt: skip
        return net

    whole = run(folder / "a", 0)
    with pytest.raises(Stopped):
        run(folder / "b", 0, stop=3)
    parts = run(folder / "b", 1)
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), parts.parameters(), strict=True))
    first, last = made[0].state_dict(), made[-1].state_dict()
    assert first.keys() == last.keys()
    assert all(torch.equal(value, last[name]) for name, value in first.items())
    return made[0]
