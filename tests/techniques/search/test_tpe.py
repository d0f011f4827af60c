"""TPE through Optuna: the same proposals as a plain study of Optuna, better than random, and its constraints."""

from __future__ import annotations

import math

import numpy as np
import optuna
import pytest

from pliant.checks import WrongShapeError
from pliant.space import Choice, Config, Problem, Space
from pliant.technique import Searcher
from pliant.techniques.search.random_search import RandomSearch
from pliant.techniques.search.tpe import Tpe
from tests.techniques.search.table import Table, drive, reached


@pytest.mark.slow
def test_proposes_what_a_plain_study_of_optuna_does() -> None:
    table = Table(16, 8, categorical=6)
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(directions=["minimize"] * 2, sampler=optuna.samplers.TPESampler(seed=1))
    optuna.logging.set_verbosity(before)
    expected = []
    for _ in range(30):
        trial = study.ask()
        params = {
            choice.name: trial.suggest_int(choice.name, 0, 7)
            if choice.ordered
            else trial.suggest_categorical(choice.name, tuple(range(8)))
            for choice in table.space.choices
        }
        config = Config(params)
        expected.append(config)
        study.tell(trial, table.values([config])[0].tolist())
    assert len(set(expected)) == 30  # else ours would differ: it never repeats itself
    assert drive(Tpe().start(table.problem(1)), 30, table.values) == expected


@pytest.mark.slow
def test_beats_random_search() -> None:
    table = Table(8, 4)
    found = [reached(Tpe(), table, 60, seed) for seed in range(2)]
    assert np.mean(found) > np.mean([reached(RandomSearch(), table, 60, seed) for seed in range(2)])


def test_one_objective() -> None:
    table = Table(8, 4)

    def best(searcher: Searcher) -> float:
        asked = drive(searcher.start(Problem(table.space, 1, 0)), 50, lambda configs: table.values(configs)[:, :1])
        return float(table.values(asked)[:, 0].min())

    assert best(Tpe()) < best(RandomSearch())


@pytest.mark.slow
def test_constraints_appear_when_the_first_is_broken() -> None:
    table = Table(8, 3)
    asked = drive(Tpe().start(table.problem()), 60, table.values, lambda values: max(0.0, float(values[1]) - 8))
    kept = table.values(asked)[:, 1] <= 8
    assert kept[30:].mean() > 2 * max(kept[:10].mean(), 0.05)


def test_text_and_tuples_are_options_like_others() -> None:
    space = Space([Choice("act", ("relu", "gelu"), False), Choice("kernel", ((1, 3), (3, 3))), Choice("flag", (True,))])
    asked = drive(Tpe(startup=2).start(Problem(space, 1, 0)), 4, lambda configs: np.ones((1, 1)))
    assert set(asked) == set(space.enumerate())


def test_failures_are_no_trials_to_learn_from() -> None:
    table = Table(4, 3)
    proposer = Tpe(startup=3).start(table.problem())
    for number in range(30):
        [config] = proposer.ask()
        bad = number % 2 == 0
        proposer.tell(config, [math.inf] * 2 if bad else table.values([config])[0].tolist(), math.inf if bad else 0.0)
    states = [trial.state.name for trial in proposer._study.get_trials()]  # type: ignore[attr-defined]
    assert states.count("COMPLETE") == 15


def test_bad_settings() -> None:
    with pytest.raises(WrongShapeError, match="at least 1"):
        Tpe(candidates=0)
