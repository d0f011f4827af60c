"""MNIST-1D with a small residual 1-D convnet: 4,000 made-up signals of 40 samples for training, ten classes.

The signals come from the package of their authors (``pip install mnist1d``), by its published arguments, seed 42, but
for their number: 14,000 are made in one go. The first 4,000 are for training, as many as are published, the last 800 of
them for validation; the other 10,000 are for testing, where 1,000 would leave members that differ by half a point in an
order of chance.

Source: Greydanus, Kobak (2020), Scaling down Deep Learning, arXiv 2011.14439.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional as F

SETTINGS = {"steps": 600, "lr": 3e-3, "weight_decay": 0.02, "warmup": 50, "unit": "%", "tolerance": 2.0, "budget": 40}
_BATCH, _HELD_OUT = 64, 800
_TRAIN, _TEST = 4_000, 10_000


@functools.cache
def data() -> dict[str, tuple[Tensor, Tensor]]:
    """Return signals ``(N, 1, 40)`` and labels ``(N,)`` by split.

    Raises:
        SystemExit: the package that makes them is missing.
    """
    try:
        generator = importlib.import_module("mnist1d.data")  # it has no types
    except ModuleNotFoundError as error:  # this file may be found under the package's name, so look for what is in it
        raise SystemExit("the signals' generator is missing: pip install mnist1d") from error
    asked = generator.get_dataset_args()
    asked.num_samples, asked.train_split = _TRAIN + _TEST, _TRAIN / (_TRAIN + _TEST)
    made = generator.make_dataset(asked)
    x, y = (torch.tensor(made[name]) for name in ("x", "y"))
    parts = {
        "train": (x[:-_HELD_OUT], y[:-_HELD_OUT]),
        "validation": (x[-_HELD_OUT:], y[-_HELD_OUT:]),
        "test": (torch.tensor(made["x_test"]), torch.tensor(made["y_test"])),
    }
    return {name: (some.float()[:, None], labels.long()) for name, (some, labels) in parts.items()}


class Block(nn.Module):
    """Two convolutions of three samples with BatchNorm beside a shortcut: ``(B, C, L) -> (B, C, L)``."""

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv1d(channels, hidden, 3, padding=1, bias=False)
        self.norm1 = nn.BatchNorm1d(hidden)
        self.conv2 = nn.Conv1d(hidden, channels, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm1d(channels)

    def forward(self, x: Tensor) -> Tensor:
        """Add what the two convolutions found."""
        return F.relu(x + self.norm2(self.conv2(F.relu(self.norm1(self.conv1(x))))))


class Net(nn.Module):
    """A stem, two stages of three blocks each with a convolution that halves the length between, a linear head."""

    def __init__(self, width: int = 12, hidden: int = 32, depth: int = 3) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv1d(1, width, 5, padding=2, bias=False), nn.BatchNorm1d(width), nn.ReLU())
        self.first = nn.Sequential(*(Block(width, hidden) for _ in range(depth)))
        self.halve = nn.Sequential(
            nn.Conv1d(width, 2 * width, 3, stride=2, padding=1, bias=False), nn.BatchNorm1d(2 * width), nn.ReLU()
        )
        self.second = nn.Sequential(*(Block(2 * width, hidden) for _ in range(depth)))
        self.head = nn.Linear(2 * width * 5, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits ``(B, 10)``; the head sees means over five parts of the signal, as position matters."""
        y: Tensor = self.second(self.halve(self.first(self.stem(x))))
        return self.head(F.avg_pool1d(y, 4).flatten(1))


def model() -> nn.Module:
    """Return a fresh network."""
    return Net()


def example_args() -> tuple[Tensor]:
    """Return two signals."""
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
