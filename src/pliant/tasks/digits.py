"""The digits task: scikit-learn's 1,797 hand-written digits of 8x8 pixels, read from the installed package.

The images are split once, stratified by class and always in the same way: 60 % train, 20 % validation, 20 % test.
Training images are shifted by at most one pixel in each direction.

Source of the data: Alpaydin and Kaynak (1998), Optical Recognition of Handwritten Digits, UCI.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..checks import unknown
from .draws import generator

VARIANTS = ("vit", "convnet")

SETTINGS: dict[str, Any] = {
    "batch": 64,
    "steps": 5600,
    "lr": 4e-3,
    "weight_decay": 0.05,
    "warmup": 280,
    "unit": "%",
    "tolerance": 1.5,
    "budget": 60,
    "quick": {"steps": 2400, "budget": 24},
    "convnet": {"lr": 2.5e-3, "weight_decay": 0.02, "steps": 2800, "quick": {"steps": 1200, "budget": 24}},
}

SPLITS = ("train", "validation", "test")


class Split(NamedTuple):
    """Images ``(N, 1, 8, 8)`` with values in 0..1, and labels ``(N,)`` in 0..9."""

    images: Tensor
    labels: Tensor


@functools.cache
def data() -> dict[str, Split]:
    """Return the three splits. The split is drawn from a fixed seed of its own, never from the run's."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    images = torch.tensor(bunch.images, dtype=torch.float32).unsqueeze(1) / 16.0
    labels = torch.tensor(bunch.target, dtype=torch.long)
    parts: dict[str, list[Tensor]] = {name: [] for name in SPLITS}
    for digit in range(10):
        members = torch.nonzero(labels == digit).flatten()
        members = members[torch.randperm(len(members), generator=generator("digits-split", digit))]
        fifth = round(0.2 * len(members))
        for name, part in zip(SPLITS, members.split([len(members) - 2 * fifth, fifth, fifth]), strict=True):
            parts[name].append(part)
    return {name: Split(images[torch.cat(some)], labels[torch.cat(some)]) for name, some in parts.items()}


@functools.cache
def _scale() -> tuple[float, float]:
    train = data()["train"].images
    return float(train.mean()), float(train.std())


def standardise(images: Tensor) -> Tensor:
    """Bring images in 0..1 to zero mean and unit variance, by the statistics of the training images."""
    mean, std = _scale()
    return (images - mean) / std


def shift(images: Tensor, draw: torch.Generator) -> Tensor:
    """Move each image by -1, 0 or +1 pixel down and across; what comes in at the edge is background (0)."""
    count, size = images.shape[0], images.shape[-1]
    padded = F.pad(images, (1, 1, 1, 1))
    moves = torch.randint(0, 3, (2, count, 1), generator=draw)
    rows, columns = moves + torch.arange(size)
    return padded[torch.arange(count)[:, None, None], 0, rows[:, :, None], columns[:, None, :]].unsqueeze(1)


def model(variant: str = "vit") -> nn.Module:
    """Return a fresh network: ``"vit"`` (0.25 M parameters) or ``"convnet"`` (0.53 M parameters)."""
    if variant == "vit":
        from .digits_vit import DigitsViT

        return DigitsViT()
    if variant == "convnet":
        from .digits_convnet import DigitsConvNet

        return DigitsConvNet()
    raise unknown("variant of the task digits", variant, VARIANTS)


def example_args() -> tuple[Tensor]:
    """Return two validation images, ``(2, 1, 8, 8)``."""
    return (standardise(data()["validation"].images[:2]),)


def batches(seed: int, start: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield batches of ``(images, labels)`` without end, from the ``start``-th on.

    The k-th batch depends on ``seed`` and k only: each epoch is a permutation drawn from the seed and the number of
    the epoch, and each batch draws its shifts from the seed and k. ``batches(seed, k)`` therefore goes on exactly
    where an interrupted ``batches(seed)`` stopped.
    """
    images, labels = data()["train"]
    size = int(SETTINGS["batch"])
    per_epoch = len(labels) // size
    index, epoch, order = start, -1, torch.empty(0, dtype=torch.long)
    while True:
        if index // per_epoch != epoch:
            epoch = index // per_epoch
            order = torch.randperm(len(labels), generator=generator("digits-epoch", seed, epoch))
        first = index % per_epoch * size
        chosen = order[first : first + size]
        yield standardise(shift(images[chosen], generator("digits-shift", seed, index))), labels[chosen]
        index += 1


def loss(outputs: Tensor, targets: Tensor) -> Tensor:
    """Return the mean cross-entropy of logits ``(B, 10)`` and labels ``(B,)``."""
    return F.cross_entropy(outputs, targets)


@torch.no_grad()
def evaluate(model: nn.Module, split: str = "validation") -> dict[str, float]:
    """Return ``{"error": percent of wrong labels, "loss": nats}`` over ``"validation"`` or ``"test"``.

    The network's training mode is put back afterwards.
    """
    if split not in SPLITS:
        raise unknown("split", split, SPLITS)
    images, labels = data()[split]
    training = model.training
    model.eval()
    try:
        logits = model(standardise(images))
    finally:
        model.train(training)
    wrong = (logits.argmax(1) != labels).double().mean()
    return {"error": 100.0 * float(wrong), "loss": float(F.cross_entropy(logits, labels))}
