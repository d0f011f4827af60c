"""Counted costs and canonical forms against members that are built and measured."""

from __future__ import annotations

import warnings
from functools import cache
from random import Random

import numpy as np
import pytest
import torch
from torch import nn

from pliant import Depth, Family, Macs, Params, Width, load_task
from pliant.checks import NoEffectWarning
from pliant.family.counts import Counts
from pliant.graph import Analysis, analyze
from tests.helpers import torchvision_shim  # noqa: F401

KINDS = (
    ("widths and depth", (Width(), Depth())),
    ("one by one", (Width(uniform=True), Depth(per_block=True))),
    ("everything", (Width(kinds=("width", "heads", "head_width", "stream")), Depth(order="spread", least=0.0))),
)


def made(
    model: nn.Module, args: tuple[torch.Tensor, ...], choices: tuple[Width, Depth], analysis: Analysis | None = None
) -> Family:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NoEffectWarning)  # not every network has blocks
        return Family(model, args, choices=choices, analysis=analysis)


@cache
def analysed(name: str) -> tuple[nn.Module, tuple[torch.Tensor, ...], Analysis]:
    """Return a task's network, its example and its analysis, which takes longer than all else and knows no choices."""
    task = load_task(name)
    model, args = task.model(), task.example_args()
    return model, args, analyze(model, args)


def agree(family: Family, args: tuple[torch.Tensor, ...], rng: Random) -> None:
    macs, params = Macs(args), Params()
    configs = [family.space.smallest(), family.space.largest(), *(family.space.sample(rng) for _ in range(6))]
    rows = family.space.indices(configs)
    for objective in (macs, params):
        count = objective.count(family)
        assert count is not None
        measured = [objective.measure(family.ready(config)).value for config in configs]
        assert count(rows).tolist() == measured
    counts = family.counts
    assert counts is not None
    slow = family.space.indices([family.canonical(config) for config in configs])
    assert np.array_equal(counts.canonical(rows), slow)
    assert not counts.active(rows)[slow != rows].any()


@pytest.mark.slow
@pytest.mark.parametrize("choices", [pair[1] for pair in KINDS], ids=[pair[0] for pair in KINDS])
@pytest.mark.parametrize("name", ["digits", "digits:convnet", "charlm"])
def test_tasks(name: str, choices: tuple[Width, Depth], rng: Random) -> None:
    model, args, analysis = analysed(name)
    agree(made(model, args, choices, analysis), args, rng)


def _torchvision(name: str) -> nn.Module:
    """Return a small network of a family of networks: its kinds of layer and of connection, fewer of each."""
    from torchvision import models

    if name == "densenet":
        return models.DenseNet(growth_rate=16, block_config=(3, 2), num_init_features=32)
    if name == "shufflenet":
        return models.ShuffleNetV2([2, 2, 2], [24, 32, 64, 96, 128])
    if name == "swin":
        return models.SwinTransformer([4, 4], 32, [2, 2], [2, 4], [4, 4])
    return models.get_model(name)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["densenet", "shufflenet", "swin", "mobilenet_v3_small"])
def test_networks_of_torchvision(name: str, rng: Random) -> None:
    args = (torch.randn(1, 3, 64, 64),)
    agree(made(_torchvision(name).eval(), args, (Width(), Depth())), args, rng)


@pytest.mark.slow
def test_another_batch_than_the_familys() -> None:
    task = load_task("digits")
    family = Family(task.model(), task.example_args(), choices=[Width()])
    [images] = task.example_args()
    agree(family, (images[:3],), Random(0))


class Odd(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.up, self.rest, self.down = nn.Linear(8, 32), nn.Bilinear(32, 4, 16), nn.Linear(16, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.down(self.rest(torch.relu(self.up(x)), x[:, :4]))


def test_an_operation_whose_cost_is_not_known_is_measured(caplog: pytest.LogCaptureFixture) -> None:
    args = (torch.randn(2, 8),)
    family = Family(Odd(), args, choices=[Width()])
    with caplog.at_level("INFO", "pliant"):
        assert Macs(args).count(family) is None
    assert "bilinear" in caplog.text


@pytest.mark.slow
def test_a_measure_that_disagrees_is_not_counted() -> None:
    task = load_task("digits")
    family = Family(task.model(), task.example_args(), choices=[Width()])
    with pytest.raises(LookupError, match="measures"):
        Counts(family).params(lambda member: 1.0)


def test_what_is_no_family_has_no_counts() -> None:
    assert Params().count(object()) is None
