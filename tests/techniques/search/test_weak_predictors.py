"""WeakNAS: each predictor must beat chance, and the row of them must beat a random search and one strong predictor."""

from __future__ import annotations

import numpy as np
import pytest

from pliant.checks import UnknownNameError, WrongShapeError
from pliant.space import Choice, Problem, Space
from pliant.techniques.search._arrays import pool
from pliant.techniques.search.random_search import RandomSearch
from pliant.techniques.search.weak_predictors import WeakPredictors, _Rounds
from tests.techniques.search.table import Table, draws, drive, evaluations, reached

QUICK = WeakPredictors(predictor="forest", trees=20)


@pytest.mark.parametrize(
    "settings", [QUICK, WeakPredictors(predictor="boosting", trees=50), WeakPredictors(hidden=(64, 64))]
)
def test_every_kind_of_predictor_orders_what_it_has_not_seen(settings: WeakPredictors) -> None:
    from scipy.stats import kendalltau

    table = Table(6, 3)
    rounds = _Rounds(settings, table.problem())
    known, fresh = (table.space.indices(draws(table.space, count, seed)) for count, seed in ((60, 0), (200, 1)))
    values = np.stack([table.error(known), table.cost(known)], axis=1)
    predicted, broken = rounds._predicted(known, values, np.zeros(60), fresh, np.random.default_rng(0))
    assert kendalltau(predicted[:, 0], table.error(fresh))[0] > 0.4
    assert kendalltau(predicted[:, 1], table.cost(fresh))[0] > 0.6
    assert not broken.any()


@pytest.mark.slow
def test_reaches_what_random_search_reaches_in_fewer_evaluations() -> None:
    table = Table(6, 4)
    goal = float(np.mean([reached(RandomSearch(), table, 150, seed) for seed in range(3)]))
    needed = [evaluations(QUICK, table, goal, seed, 150) for seed in range(3)]
    assert np.median(needed) <= 75


@pytest.mark.slow
def test_progressive_predictors_find_a_better_best_than_one_of_the_same_budget() -> None:
    table = Table(6, 4)
    everything = pool(table.space, 5000, np.random.default_rng(0))
    ranked = np.sort(table.error(everything))

    def place(settings: WeakPredictors, seed: int) -> float:
        proposer = settings.start(Problem(table.space, 1, seed))
        asked = drive(proposer, 60, lambda configs: table.values(configs)[:, :1])
        return float(np.searchsorted(ranked, table.values(asked)[:, 0].min()))

    seeds = range(4)
    weak = [place(WeakPredictors(predictor="forest", trees=20, first=10, batch=10), seed) for seed in seeds]
    strong = [place(WeakPredictors(predictor="forest", trees=20, first=50, batch=10), seed) for seed in seeds]
    assert np.mean(weak) < np.mean(strong)


def test_the_batch_comes_from_the_top_of_the_prediction() -> None:
    space = Space([Choice(f"c{at}", tuple(range(5))) for at in range(3)])
    proposer = WeakPredictors(predictor="forest", trees=30, first=40, batch=5, top=10).start(Problem(space, 1, 0))

    def total(configs: object) -> np.ndarray:
        return space.indices(configs).sum(axis=1, keepdims=True).astype(float)  # type: ignore[arg-type]

    asked = drive(proposer, 45, total)
    assert total(asked[40:]).mean() < total(asked[:40]).mean() - 2


@pytest.mark.slow
def test_a_large_space_is_represented_by_draws_and_mutants() -> None:
    table = Table(20, 4)
    searcher = WeakPredictors(predictor="forest", trees=20, pool=400, top=40)
    found = [reached(searcher, table, 80, seed) for seed in range(3)]
    assert np.mean(found) > 1.05 * np.mean([reached(RandomSearch(), table, 80, seed) for seed in range(3)])


def test_bad_settings() -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'forest'"):
        WeakPredictors(predictor="forrest")
    with pytest.raises(WrongShapeError, match="at least"):
        WeakPredictors(top=0)
    with pytest.raises(WrongShapeError, match="at least"):
        WeakPredictors(hidden=())
