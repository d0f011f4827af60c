"""Rotation: the ends have their turns, random members the others, each with a batch of its own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from pliant.checks import WrongShapeError
from pliant.family.counts import macs_shares
from pliant.space import Choice, Space
from pliant.techniques.train.rotation import Rotation
from pliant.techniques.train.sandwich import Sandwich
from pliant.training import TrainingStep
from tests.family.nets import vectors
from tests.techniques.train.turns import Notes, check_gradient, check_resume, check_runs, digit_errors, fresh, spread

SPACE = Space([Choice("a", (1, 2, 3)), Choice("b", (1, 2, 3, 4))])


@pytest.mark.parametrize("period", [2, 3, 8])
def test_the_ends_have_their_turns_and_the_others_are_drawn(period: int) -> None:
    drawn = set()
    for step in range(60 * period):
        turn: Any = Notes(SPACE, step=step)
        Rotation(period=period).step(turn)
        ((config, how),) = turn.calls
        assert how == {}
        if step % period == 0:
            assert config == SPACE.largest()
        elif step % period == period // 2:
            assert config == SPACE.smallest()
        else:
            drawn.add(config)
    assert drawn == (set(SPACE.enumerate()) if period > 2 else set())


def test_the_run_s_teacher_leads_every_member() -> None:
    for step in (0, 1, 4):
        turn: Any = Notes(SPACE, step=step, taught="the teacher's")
        Rotation(lead=0.7, temperature=2.0).step(turn)
        assert turn.calls[0][1] == {"teacher": "the teacher's", "share": 0.7, "temperature": 2.0}


def test_distillation_is_from_the_largest_member_on_the_same_batch() -> None:
    x, y = vectors(3, 4, 6), torch.tensor([0, 4, 2])
    family = fresh("vit")
    turn = TrainingStep(family, (x, y), F.cross_entropy, step=1)
    Rotation(share=0.25).step(turn)
    (config,), (largest,) = turn.learnt, turn.watched
    assert largest == family.space.largest() != config
    net = family.extract(config)
    with torch.no_grad():
        goal = family.model(x).softmax(-1)
    outputs = net(x)
    distilled = F.kl_div(outputs.log_softmax(-1), goal, reduction="batchmean")
    (0.25 * distilled + 0.75 * F.cross_entropy(outputs, y)).backward()
    check_gradient(family, [spread(family, config, net)])


def test_the_rate_falls_in_a_line() -> None:
    assert [Rotation().rate(done) for done in (0.0, 0.25, 1.0)] == [1.0, 0.75, 0.0]


@pytest.mark.parametrize(
    ("wrong", "words"),
    [({"period": 1}, "period is a whole number, 2 or more; got 1"), ({"share": 2}, "share is a share"),
     ({"lead": -1}, "lead is a share"), ({"temperature": 0}, "temperature is a finite number")],
)  # fmt: skip
def test_wrong_fields_are_refused(wrong: dict[str, Any], words: str) -> None:
    with pytest.raises(WrongShapeError, match=words):
        Rotation(**wrong)


@pytest.mark.parametrize("share", [0.0, 0.5])
def test_a_killed_run_goes_on_with_the_same_weights(tmp_path: Path, share: float) -> None:
    check_resume(Rotation(period=4, share=share), tmp_path)


def test_it_trains_any_family() -> None:
    check_runs(Rotation(period=4), steps=5)


@pytest.mark.slow
def test_on_digits_it_beats_the_sandwich_at_equal_compute() -> None:
    """Mean error of members, two seeds, the better of two rates for each; steps for equal multiply-accumulates."""
    family = fresh("digits")
    share, every = macs_shares(family), list(family.space.enumerate())
    mean, small = float(np.mean([share(config) for config in every])), share(family.space.smallest())
    steps = round(40 * (1 + small + 2 * mean) / ((1 + small + 6 * mean) / 8))
    assert 120 < steps < 200
    gaps = []
    for seed in range(2):
        rotation = min(_mean(Rotation(), seed, steps, lr) for lr in (0.005, 0.01))
        sandwich = min(_mean(Sandwich(), seed, 40, lr) for lr in (0.005, 0.01))
        gaps.append(sandwich - rotation)
    assert np.mean(gaps) > 0.002, gaps


def _mean(recipe: Any, seed: int, steps: int, lr: float) -> float:
    return float(np.mean(list(digit_errors(recipe, seed, steps, lr).values())))
