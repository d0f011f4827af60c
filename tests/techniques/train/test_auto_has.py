"""AutoHAS: trials leave no trace, the controller's gradient, and what it finds on digits."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from pliant.checks import WrongShapeError
from pliant.space import Choice, Config, Space
from pliant.techniques.train.auto_has import RATE, AutoHas, chosen, mixture, moved, odds
from pliant.techniques.train.single_path import SinglePath
from pliant.training import train
from tests.techniques.train.turns import Notes, check_resume, check_runs, data_of, digit_batches, fresh, run, units
from tests.training.toy import same, state

SPACE = Space([Choice("width", (8, 16, 32)), Choice("depth", (1, 2))])


class Table(Notes):
    """A turn of a network that need not exist: what a step would lead to stands in a table."""

    def __init__(self, step: int, memory: dict[str, Any], losses: Callable[[Config, float], float], seed: int) -> None:
        super().__init__(SPACE, step=step, seed=seed)
        self.memory, self._losses = memory, losses
        self.tried: list[tuple[Config, float]] = []

    def foresee(self, config: Config, rate: float = 1.0) -> float:
        self.tried.append((config, rate))
        return self._losses(config, rate)


def steps(recipe: AutoHas, losses: Callable[[Config, float], float], count: int, seed: int) -> tuple[Any, list[Any]]:
    memory: dict[str, Any] = {}
    turns = []
    for step in range(count):
        turn: Any = Table(step, memory, losses, seed)
        recipe.step(turn)
        turns.append(turn)
    return memory, turns


def test_sampled_updates_average_to_the_exact_gradient_of_the_expected_reward() -> None:
    logits = {"a": [0.3, -0.2, 0.5], "b": [0.1, 0.4]}
    rewards = torch.randn(3, 2, dtype=torch.float64)
    tensors = {name: torch.tensor(row, dtype=torch.float64, requires_grad=True) for name, row in logits.items()}
    expected = tensors["a"].softmax(0) @ rewards @ tensors["b"].softmax(0)
    expected.backward()
    sums = {name: [0.0] * len(row) for name, row in logits.items()}
    for a, b in itertools.product(range(3), range(2)):
        likely = odds(logits["a"])[a] * odds(logits["b"])[b]
        for name, place in (("a", a), ("b", b)):
            step = moved(logits[name], place, float(rewards[a, b]))
            sums[name] = [s + likely * (new - old) for s, new, old in zip(sums[name], step, logits[name], strict=True)]
    for name, tensor in tensors.items():
        assert tensor.grad is not None
        assert sums[name] == pytest.approx(tensor.grad.tolist(), abs=1e-12)


def test_rates_are_mixed_by_their_geometric_mean() -> None:
    assert mixture((0.1, 1.0, 10.0), (0.0, 0.0, 0.0)) == pytest.approx(1.0)
    assert mixture((0.1, 10.0), (0.0, math.log(3.0))) == pytest.approx(10**0.5)
    assert mixture((2.0,), (0.7,)) == pytest.approx(2.0)


@pytest.mark.parametrize("seed", range(5))
def test_probabilities_follow_what_is_good(seed: int) -> None:
    def losses(config: Config, rate: float) -> float:
        return {8: 2.0, 16: 1.0, 32: 1.5}[units(config, "width")] + (0.0 if rate == 1.0 else math.inf)

    recipe = AutoHas(rates=(1.0, 30.0))
    memory, turns = steps(recipe, losses, 300, seed)
    config, rate = chosen(memory, SPACE, recipe.rates)
    assert config["width"] == 16
    assert odds(memory["logits"][RATE])[0] > 0.9
    assert rate < 1.5
    assert turns[-1].rates == [pytest.approx(rate, rel=0.2)]
    assert {rate for turn in turns for _, rate in turn.tried} == {1.0, 30.0}


def test_members_that_the_constraints_forbid_are_neither_tried_nor_trained() -> None:
    space = Space(SPACE.choices, ["width <= 16"])
    memory: dict[str, Any] = {}
    for step in range(30):
        turn: Any = Table(step, memory, lambda config, rate: 1.0, 0)
        turn.space = space
        AutoHas().step(turn)
        ((config, _),) = turn.learnt
        assert {config["width"], *(tried["width"] for tried, _ in turn.tried)} <= {8, 16}


def test_it_learns_from_the_runs_teacher() -> None:
    turn: Any = Table(0, {}, lambda config, rate: 1.0, 0)
    turn._taught = "the teacher's"
    AutoHas(lead=0.7).step(turn)
    ((_, how),) = turn.learnt
    assert how == {"teacher": "the teacher's", "share": 0.7, "temperature": 1.0}


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"rates": ()}, "rates is some different finite numbers"),
        ({"rates": (1.0, 1.0)}, "rates is some different finite numbers"),
        ({"rates": (0.0, 1.0)}, "rates is some different finite numbers"),
        ({"speed": 0.0}, "speed is a finite number above 0"),
        ({"memory": 1.5}, "memory is a share"),
        ({"lead": -1.0}, "lead is a share"),
        ({"ahead": -1}, "ahead is a whole number, 0 or more"),
    ],
)
def test_bad_fields(wrong: dict[str, Any], words: str) -> None:
    with pytest.raises(WrongShapeError, match=words):
        AutoHas(**wrong)


def test_the_memory_of_another_run_is_refused() -> None:
    memory, _ = steps(AutoHas(), lambda config, rate: 1.0, 2, 0)
    with pytest.raises(WrongShapeError, match="not the memory of a run"):
        chosen(memory, SPACE, (1.0,))
    with pytest.raises(WrongShapeError, match="not the memory of a run"):
        chosen({}, SPACE, (1.0,))


class Looking(SinglePath):
    """Trains as its base does, and looks ahead before every step."""

    def step(self, turn: Any) -> None:
        before = [value.clone() for value in turn.course.state()]
        ahead = [turn.foresee(turn.space.smallest(), rate) for rate in (1.0, 1e4)]
        assert ahead[0] != ahead[1]
        after = turn.course.state()
        assert all(torch.equal(old, new) for old, new in zip(before, after, strict=True))
        assert all(parameter.grad is None for parameter in turn.family.parameters())
        super().step(turn)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["vit", "convnet"])
@pytest.mark.parametrize("optimizer", ["momentum", "adam"])
def test_after_trials_everything_is_as_before_bit_for_bit(kind: str, optimizer: str) -> None:
    ends = []
    for recipe in (SinglePath(), Looking()):
        family = fresh(kind)
        for module in family.model.modules():
            if isinstance(module, nn.Dropout):
                module.p = 0.3  # random numbers too
        made: Any = (
            torch.optim.SGD(family.parameters(), lr=0.05, momentum=0.9)
            if optimizer == "momentum"
            else torch.optim.AdamW(family.parameters(), lr=0.01)
        )
        torch.manual_seed(3)
        train(family, data_of(kind), F.cross_entropy, steps=4, recipe=recipe, optimizer=made)
        ends.append(state(family))
    assert same(*ends)


@pytest.mark.slow
def test_it_trains_and_goes_on_after_a_kill(tmp_path: Path) -> None:
    check_runs(AutoHas())
    check_resume(AutoHas(), tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(5))
def test_on_digits_a_good_rate_becomes_likelier_than_one_that_diverges(seed: int) -> None:
    family, recipe = fresh("digits"), AutoHas(rates=(1.0, 1000.0), speed=0.3)
    optimizer = torch.optim.SGD(family.parameters(), lr=0.1)
    done = train(
        family, digit_batches, F.cross_entropy, steps=25, recipe=recipe, optimizer=optimizer, seed=seed, clip=None
    )
    assert odds(done.memory["logits"][RATE])[0] > 0.8
    assert done.loss < 2.5  # ln 10 is what guessing costs
    _, rate = chosen(done.memory, family.space, recipe.rates)
    assert rate < 10


def test_a_run_keeps_what_was_found() -> None:
    family = fresh("vit")
    recipe = AutoHas()
    run(family, "vit", recipe, 2)
    optimizer = torch.optim.SGD(family.parameters(), lr=0.05)
    done = train(family, data_of("vit"), F.cross_entropy, steps=3, recipe=recipe, optimizer=optimizer)
    config, rate = chosen(done.memory, family.space, recipe.rates)
    assert family.space.check(config) == config
    assert 0.3 <= rate <= 3.0
    assert len(done.watched) == 2  # one trial, which costs as much as two looks
