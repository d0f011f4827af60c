"""A user's task in one file, small enough for a run in seconds: a residual convnet on scikit-learn's digits.

What it does wrong on request is told by the environment: ``PLIANT_TEST_FAULT`` is ``nan`` or ``slow``.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional as F

SETTINGS = {"steps": 40, "budget": 4, "lr": 0.01, "warmup": 4, "tolerance": 50.0, "quick": {"steps": 20}}
FAULT = os.environ.get("PLIANT_TEST_FAULT", "")


def _load() -> dict[str, tuple[Tensor, Tensor]]:
    bunch = load_digits()
    x = torch.tensor(bunch.images, dtype=torch.float32).unsqueeze(1) / 16 - 0.3
    y = torch.tensor(bunch.target)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    x, y = x[order], y[order]
    return {"train": (x[:800], y[:800]), "validation": (x[800:1300], y[800:1300]), "test": (x[1300:], y[1300:])}


DATA = _load()


class Block(nn.Module):
    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.conv1, self.norm = nn.Conv2d(dim, hidden, 3, padding=1), nn.BatchNorm2d(hidden)
        self.conv2 = nn.Conv2d(hidden, dim, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv2(F.relu(self.norm(self.conv1(x))))


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 8, 3, stride=2, padding=1)
        self.blocks = nn.Sequential(Block(8, 32), Block(8, 32))
        self.head = nn.Linear(8, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.blocks(self.stem(x)).mean((2, 3)))


def model() -> nn.Module:
    return Net()


def example_args() -> tuple[Tensor]:
    return (DATA["validation"][0][:2],)


def batches(seed: int, start: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
    x, y = DATA["train"]
    k = start
    while True:
        chosen = torch.randint(0, len(x), (16,), generator=torch.Generator().manual_seed(1000 * seed + k))
        if FAULT == "slow":
            time.sleep(0.02)
        yield x[chosen] * (float("nan") if FAULT == "nan" and k == 25 else 1), y[chosen]
        k += 1


def loss(outputs: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(outputs, targets)


def evaluate(model: nn.Module, split: str = "validation") -> dict[str, float]:
    x, y = DATA[split]
    if FAULT == "slow":
        time.sleep(0.1)
    outputs = model(x)
    return {"error": 100 * float((outputs.argmax(1) != y).float().mean()), "loss": float(F.cross_entropy(outputs, y))}
