"""A family and batches that train in a blink."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pliant.family import Family
from pliant.techniques.elastic.width import Width
from tests.family.nets import ConvNet, images


class Mlp(nn.Module):
    """``(B, 8) -> (B, 3)``, with dropout: the random state matters."""

    def __init__(self, dropout: float = 0.2) -> None:
        super().__init__()
        self.fc1, self.fc2, self.out = nn.Linear(8, 16), nn.Linear(16, 16), nn.Linear(16, 3)
        self.drop = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.drop(torch.relu(self.fc2(torch.relu(self.fc1(x))))))


def mlp(seed: int = 0, dropout: float = 0.2) -> Any:
    torch.manual_seed(seed)
    return Family(Mlp(dropout), (torch.randn(4, 8),), [Width(multiple=4)])


def convnet(seed: int = 0) -> Any:
    torch.manual_seed(seed)
    return Family(ConvNet(blocks=1), (images(),), [Width(multiple=4)])


def batch(k: int, shape: tuple[int, ...] = (8,), classes: int = 3) -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(k)
    return torch.randn(6, *shape, generator=draw), torch.randint(0, classes, (6,), generator=draw)


def batches(start: int = 0) -> Iterator[Any]:
    """Batches of :func:`mlp`, from any step on."""
    while True:
        yield batch(start)
        start += 1


def pictures(start: int = 0) -> Iterator[Any]:
    """Batches of :func:`convnet`."""
    while True:
        yield batch(start, (1, 8, 8), 5)
        start += 1


def loss(outputs: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(outputs, targets)


def state(family: Family) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in family.model.state_dict().items()}


def same(left: dict[str, Tensor], right: dict[str, Tensor]) -> bool:
    return left.keys() == right.keys() and all(torch.equal(value, right[name]) for name, value in left.items())
