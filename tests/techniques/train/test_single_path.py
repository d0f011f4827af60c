"""Single path: one member per step, all equally likely."""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from scipy.stats import chisquare, kendalltau
from torch import nn

from pliant.checks import WrongShapeError
from pliant.family import Family
from pliant.space import Choice, Config, Space
from pliant.techniques.elastic.depth import Depth
from pliant.techniques.elastic.width import Width
from pliant.techniques.train.single_path import SinglePath
from pliant.training import TrainingStep, train
from tests.family.nets import vectors
from tests.techniques.train.turns import (
    Deep,
    Notes,
    check_gradient,
    check_resume,
    check_runs,
    digit_batches,
    digits,
    fresh,
    spread,
)

CHOICES = [Choice("a", (1, 2, 3)), Choice("b", (1, 2, 3, 4)), Choice("c", ("conv", "pool"), ordered=False)]


@pytest.mark.parametrize("rules", [[], ["a >= 2", "b < 4"]])
def test_all_members_are_equally_likely_whatever_the_constraints(rules: list[str]) -> None:
    space = Space(CHOICES, rules)
    seen: Counter[Config] = Counter()
    for step in range(100 * space.size):
        turn: Any = Notes(space, step=step)
        SinglePath().step(turn)
        ((config, how),) = turn.calls
        assert how == {}
        seen[config] += 1
    assert set(seen) == set(space.enumerate())
    assert chisquare(list(seen.values())).pvalue > 0.01
    pairs = Counter((config["a"], config["b"]) for config in seen.elements())  # and no two choices hang together
    assert chisquare(list(pairs.values())).pvalue > 0.01


def test_the_test_tells_uneven_draws() -> None:
    """Were the largest drawn twice as often as others, the test above would see it."""
    assert chisquare([200] + [100] * 23).pvalue < 0.01


def test_the_member_learns_from_the_runs_teacher() -> None:
    turn: Any = Notes(Space(CHOICES), taught="the teacher's")
    SinglePath(lead=0.7, temperature=2.0).step(turn)
    assert turn.calls[0][1] == {"teacher": "the teacher's", "share": 0.7, "temperature": 2.0}


def test_the_rate_falls_in_a_line() -> None:
    assert [SinglePath().rate(done) for done in (0.0, 0.25, 1.0)] == [1.0, 0.75, 0.0]


@pytest.mark.parametrize(
    ("wrong", "words"),
    [({"lead": 1.5}, "lead is a share, from 0 to 1; got 1.5"), ({"temperature": 0}, "temperature is a finite number")],
)
def test_wrong_fields_are_refused(wrong: dict[str, Any], words: str) -> None:
    with pytest.raises(WrongShapeError, match=words):
        SinglePath(**wrong)


def test_a_step_is_that_of_the_member_alone_and_changes_nothing_outside_it() -> None:
    x, y = vectors(3, 4, 6), torch.tensor([0, 4, 2])
    family = fresh("vit")
    turn = TrainingStep(family, (x, y), F.cross_entropy, step=1)
    SinglePath().step(turn)
    (config,) = turn.learnt
    assert config != family.space.largest()
    net = family.extract(config)
    F.cross_entropy(net(x), y).backward()
    check_gradient(family, [spread(family, config, net)])


def test_a_killed_run_goes_on_with_the_same_weights(tmp_path: Path) -> None:
    check_resume(SinglePath(), tmp_path)


def test_it_trains_any_family() -> None:
    check_runs(SinglePath(), steps=5)


@pytest.mark.slow
def test_on_digits_members_with_shared_weights_rank_as_trained_alone() -> None:
    """Kendall's tau of the test losses of some members, against networks of the same shape from fresh weights."""
    (_, test), found = digits(), []
    for seed in range(2):
        torch.manual_seed(seed)
        choices = [Width(ratios=(1 / 16, 0.25, 1.0), multiple=1, kinds=("width", "stream")), Depth(least=0.0)]
        family = Family(Deep(width=16, hidden=32), (test[0][:4],), choices)
        optimizer = torch.optim.AdamW(family.parameters(), lr=0.01, fused=True)
        train(family, digit_batches, F.cross_entropy, steps=150, recipe=SinglePath(), optimizer=optimizer, seed=seed)
        rng = random.Random(seed)
        configs = [family.space.smallest(), family.space.largest(), *(family.space.sample(rng) for _ in range(6))]
        shared = [_loss(family.extract(config)) for config in configs]
        alone = [_alone(family.extract(config)) for config in configs]
        found.append(float(kendalltau(shared, alone).statistic))
    assert min(found) > 0.3, found


def _alone(net: nn.Module) -> float:
    """Train a network from fresh weights and return its test loss."""
    for module in net.train().modules():
        if isinstance(module, (nn.Linear, nn.LayerNorm)):
            module.reset_parameters()
    optimizer = torch.optim.AdamW(net.parameters(), lr=0.01, fused=True)
    for _, (x, y) in zip(range(80), digit_batches(0), strict=False):
        optimizer.zero_grad()
        F.cross_entropy(net(x), y).backward()
        optimizer.step()
    return _loss(net)


def _loss(net: nn.Module) -> float:
    x, y = digits()[1]
    with torch.no_grad():
        return float(F.cross_entropy(net(x), y))
