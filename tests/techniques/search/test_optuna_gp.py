"""Optuna's Gaussian process: better than random on few evaluations, with constraints, and the rest as TPE's."""

from __future__ import annotations

import numpy as np
import pytest

from pliant.checks import WrongShapeError
from pliant.space import Problem
from pliant.techniques.search.optuna_gp import OptunaGp
from pliant.techniques.search.random_search import RandomSearch
from tests.techniques.search.table import Table, drive


@pytest.mark.slow  # a proposal takes tenths of a second
def test_finds_a_better_config_than_random_search() -> None:
    table = Table(6, 4)

    def best(searcher: OptunaGp | RandomSearch, seed: int) -> float:
        asked = drive(searcher.start(Problem(table.space, 1, seed)), 18, lambda c: table.values(c)[:, :1])
        return float(table.values(asked)[:, 0].min())

    seeds = range(2)
    modelled = [best(OptunaGp(startup=6, deterministic=True), seed) for seed in seeds]
    assert max(modelled) < min(best(RandomSearch(), seed) for seed in seeds)


@pytest.mark.slow
def test_constraints() -> None:
    table = Table(5, 3)
    proposer = OptunaGp(startup=6).start(Problem(table.space, 1, 0))
    asked = drive(
        proposer,
        20,
        lambda configs: table.values(configs)[:, :1],
        lambda values: float(np.maximum(2.0 - values[0], 0)),  # the best errors are forbidden
    )
    kept = table.values(asked)[:, 0] >= 2.0
    assert kept[8:].mean() > 0.6


def test_bad_settings() -> None:
    with pytest.raises(WrongShapeError, match="at least 1"):
        OptunaGp(startup=0)
