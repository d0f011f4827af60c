"""A ViT-S on scikit-learn's digits, blown up to 64x64: a network whose step takes as long as those that people train.

Made for times (``--cost``): what making a member takes hardly depends on how long its step does.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks._networks import vit_s

SETTINGS = {"steps": 600, "lr": 5e-4, "weight_decay": 0.05, "warmup": 50, "unit": "%", "tolerance": 2.0, "budget": 40}
_BATCH, _SIZES = 64, (1200, 237, 360)


@functools.cache
def data() -> dict[str, tuple[Tensor, Tensor]]:
    """Return images ``(N, 3, 64, 64)`` and labels ``(N,)`` by split."""
    digits = load_digits()
    x = torch.tensor(digits.images, dtype=torch.float32)[:, None] / 8 - 1
    x, y = F.interpolate(x, (64, 64)).expand(-1, 3, -1, -1), torch.tensor(digits.target)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    parts = zip(("train", "validation", "test"), order.split(list(_SIZES)), strict=True)
    return {name: (x[rows], y[rows]) for name, rows in parts}


def model() -> nn.Module:
    """Return a fresh network: ``(B, 3, 64, 64) -> (B, 100)``, of which ten classes are met."""
    return vit_s()[0]


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
