"""BossNAS: ratings of members without labels, against the accuracies of the same networks trained alone."""

from __future__ import annotations

from itertools import islice
from random import Random
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pliant.family import Family
from pliant.techniques.elastic.width import Width
from pliant.techniques.train.boss_nas import BossNas
from pliant.training import train
from tests.techniques.train.turns import digit_batches, digits


def unused(outputs: Any, targets: Any) -> Tensor:
    raise AssertionError("labels are looked at")


class Cells(nn.Module):
    """``(B, 64) -> (B, 10)``: two convolutions, each with a norm, on images; their widths are the space."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(1, 16, 3, 2, 1), nn.BatchNorm2d(16), nn.ReLU())
        self.second = nn.Sequential(nn.Conv2d(16, 16, 3, 2, 1), nn.BatchNorm2d(16), nn.ReLU())
        self.head = nn.Linear(16, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.second(self.first(x.view(-1, 1, 8, 8))).mean((2, 3)))


def perceptron() -> nn.Module:
    return nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 10))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("net", "ratios", "multiple", "blocks"),
    [
        (perceptron, (0.0625, 0.125, 0.5, 1.0), 2, 4),
        (Cells, (0.0625, 0.125, 0.5, 1.0), 1, ("first", "second")),
    ],
)
def test_ratings_rank_members_better_than_chance(net: Any, ratios: Any, multiple: int, blocks: Any) -> None:
    """Spearman's correlation with accuracies of members trained alone, against a thousand random ratings."""
    from scipy.stats import spearmanr

    (_, _), (x, y) = digits()
    errors = []

    def made() -> Any:
        torch.manual_seed(0)
        return Family(net(), (x[:4],), [Width(ratios=ratios, multiple=multiple)])

    family = made()
    configs = list(family.space.enumerate())
    for config in configs:
        alone = family.extract(config).train()
        optimizer = torch.optim.AdamW(alone.parameters(), lr=0.01, fused=True)
        for inputs, targets in islice(digit_batches(0), 50):
            optimizer.zero_grad()
            F.cross_entropy(alone(inputs), targets).backward()
            optimizer.step()
        errors.append(float((alone.eval()(x).argmax(1) != y).float().mean()))
    recipe = BossNas(momentum=0.95, lr=0.01, blocks=blocks)
    optimizer = torch.optim.AdamW(family.parameters(), lr=0.01, fused=True)
    last = train(family, digit_batches, unused, steps=80, recipe=recipe, optimizer=optimizer)
    rater = recipe.rater(family, last.memory, [x[:256]])
    found = spearmanr([rater(config) for config in configs], errors).statistic
    draw = Random(0)
    count = len(configs)
    chance = sorted(spearmanr(draw.sample(range(count), count), errors).statistic for _ in range(1000))
    assert found > max(0.6, chance[990])
