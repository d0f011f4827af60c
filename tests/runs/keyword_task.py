"""A user's task whose network takes keyword arguments and returns a dict, as those of transformers do."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from tests.runs import small_task
from tests.runs.small_task import DATA

SETTINGS = small_task.SETTINGS


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.trunk, self.weigh = small_task.Net(), nn.Linear(64, 1)

    def forward(self, mask: Tensor | None = None, images: Tensor | None = None) -> dict[str, Tensor]:
        assert images is not None
        seen = images if mask is None else images * mask
        return {"logits": self.trunk(seen), "weight": self.weigh(seen.flatten(1))}


def model() -> nn.Module:
    return Net()


def example_args() -> dict[str, Tensor]:
    images = DATA["validation"][0][:2]
    return {"images": images, "mask": torch.ones_like(images)}  # not in the order of the network's own signature


def batches(seed: int, start: int = 0) -> Iterator[tuple[dict[str, Tensor], Tensor]]:
    for images, targets in small_task.batches(seed, start):
        yield {"images": images, "mask": (images > -0.2).float()}, targets


def loss(outputs: dict[str, Tensor], targets: Tensor) -> Tensor:
    return small_task.loss(outputs["logits"], targets) + outputs["weight"].square().mean()


def evaluate(model: nn.Module, split: str = "validation") -> dict[str, float]:
    x, y = DATA[split]
    outputs = model(images=x, mask=(x > -0.2).float())
    return {"error": 100.0 * (outputs["logits"].argmax(1) != y).float().mean().item()}
