"""Delayed shrinking: plain training until the delay is over, rates that rise, and that it helps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from pliant.checks import WrongShapeError
from pliant.space import Choice, Space
from pliant.techniques.train.delayed_shrinking import DelayedShrinking
from pliant.training import TrainingStep, distillation_loss
from pliant.training.course import Course
from tests.family.nets import vectors
from tests.techniques.train.turns import (
    Largest,
    Notes,
    check_gradient,
    check_resume,
    check_runs,
    digit_errors,
    fresh,
    ordinary,
    run,
    spread,
)
from tests.training.toy import same, state

SPACE = Space([Choice("a", (1, 2, 3)), Choice("b", (1, 2, 3, 4))])


def test_the_rates_rise_when_the_delay_is_over() -> None:
    recipe = DelayedShrinking(delay=0.5, ramp=0.2)
    risen = [recipe.risen(step, 20) for step in range(20)]
    assert risen == [0.0] * 10 + [0.25, 0.5, 0.75] + [1.0] * 7
    assert [DelayedShrinking(delay=0.5, ramp=0.0).risen(step, 4) for step in range(4)] == [0.0, 0.0, 1.0, 1.0]


def test_then_a_sandwich_learns_from_the_full_network() -> None:
    recipe = DelayedShrinking(between=1, share=0.9, temperature=2.0, ramp=0.5)
    for step, weight in ((3, None), (4, 0.25), (5, 0.5), (7, 1.0)):
        turn: Any = Notes(SPACE, step=step, steps=8)
        recipe.step(turn)
        assert turn.calls[0] == (SPACE.largest(), {})
        if weight is None:
            assert len(turn.calls) == 1
            continue
        assert turn.calls[1][0] == SPACE.smallest()
        assert len(turn.calls) == 3
        wanted = {"teacher": "outputs 1", "share": 0.9, "temperature": 2.0, "weight": weight}
        assert all(how == wanted for _, how in turn.calls[1:])


def test_apart_the_smaller_members_own_steps_have_the_risen_rate() -> None:
    turn: Any = Notes(SPACE, step=5, steps=8)
    updates = []
    turn.update = lambda: updates.append(turn.rate)
    DelayedShrinking(between=1, ramp=0.5, together=False).step(turn)
    assert updates == [1.0, 0.5]  # after the largest, after the smallest
    assert turn.rate == 0.5  # for the random one's, which is the loop's
    assert [how.get("weight") for _, how in turn.calls] == [None, 1.0, 1.0]


def test_the_full_network_learns_from_the_runs_teacher() -> None:
    turn: Any = Notes(SPACE, steps=10, taught="the teacher's")
    DelayedShrinking(lead=0.7).step(turn)
    assert turn.calls == [(SPACE.largest(), {"teacher": "the teacher's", "share": 0.7, "temperature": 1.0})]


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"delay": 1.5}, "delay is a share, from 0 to 1; got 1.5"),
        ({"ramp": -0.1}, "ramp is a share"),
        ({"between": -1}, "between is a whole number, 0 or more"),
        ({"share": 2.0}, "share is a share"),
        ({"temperature": -1.0}, "temperature is a finite number above 0"),
    ],
)
def test_wrong_fields_are_refused(wrong: dict[str, Any], words: str) -> None:
    with pytest.raises(WrongShapeError, match=words):
        DelayedShrinking(**wrong)


@pytest.mark.parametrize("kind", ["vit", "convnet"])
def test_before_the_delay_is_over_the_weights_are_those_of_plain_training_bit_for_bit(kind: str) -> None:
    states: dict[str, list[Any]] = {"delayed": [], "plain": []}
    for name, recipe in (("delayed", DelayedShrinking(ramp=0.0)), ("plain", Largest())):
        family = fresh(kind)
        run(family, kind, recipe, 8, on_step=lambda p, n=name, f=family: states[n].append(state(f)))
    equal = [same(left, right) for left, right in zip(states["delayed"], states["plain"], strict=True)]
    assert equal == [True] * 4 + [False] * 4


def test_the_gradient_is_the_weighted_sum_over_separate_networks() -> None:
    x, y = vectors(3, 4, 6), torch.tensor([0, 4, 2])
    family = fresh("vit")
    turn = TrainingStep(family, (x, y), F.cross_entropy, 6, course=Course(family, F.cross_entropy, steps=10))
    DelayedShrinking(between=1, share=0.8, temperature=1.5, ramp=0.4).step(turn)
    wanted, teacher = [], None
    for config in turn.learnt:
        net = family.extract(config)
        outputs = net(x)
        loss = F.cross_entropy(outputs, y)
        if teacher is not None:
            loss = 0.5 * (0.8 * distillation_loss(outputs, teacher, 1.5) + 0.2 * loss)
        loss.backward()
        teacher = outputs.detach() if teacher is None else teacher
        wanted.append(spread(family, config, net))
    assert len(wanted) == 3
    check_gradient(family, wanted)


def test_a_killed_run_goes_on_with_the_same_weights(tmp_path: Path) -> None:
    check_resume(DelayedShrinking(delay=0.4, between=1), tmp_path)


def test_it_trains_any_family() -> None:
    check_runs(DelayedShrinking(between=1))


@pytest.mark.slow
def test_on_digits_the_smallest_member_beats_the_same_slice_of_an_ordinary_network() -> None:
    smallest, largest = fresh("digits").space.smallest(), fresh("digits").space.largest()
    for seed in range(3):
        errors, plain = digit_errors(DelayedShrinking(between=1), seed, 120), ordinary(seed)
        assert errors[smallest] < 0.5 * plain[smallest], (seed, errors[smallest], plain[smallest])
        assert errors[smallest] < 0.15
        assert errors[largest] < 0.1
