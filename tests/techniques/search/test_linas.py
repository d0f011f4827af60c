"""LINAS: its predictors against scikit-learn's grid search, its inner search against the true front, and its claim."""

from __future__ import annotations

import numpy as np
import pytest

from pliant.checks import WrongShapeError
from pliant.space import Problem
from pliant.space.front import hypervolume, non_dominated
from pliant.techniques.search._arrays import onehot, pool
from pliant.techniques.search._integers import evolve
from pliant.techniques.search._light import ALPHAS, Light, _ridge_errors
from pliant.techniques.search.linas import Linas, Predictors, inner_search
from pliant.techniques.search.random_search import RandomSearch
from tests.techniques.search.table import Table, draws, drive, evaluations, reached


def test_ridge_is_tuned_as_a_grid_search_tunes_it() -> None:
    from sklearn.linear_model import Ridge
    from sklearn.model_selection import GridSearchCV

    table = Table(6, 3)
    indices = table.space.indices(draws(table.space, 40))
    x, y = onehot(table.space, indices), table.error(indices)
    grid = GridSearchCV(Ridge(), {"alpha": ALPHAS[::12]}, scoring="neg_mean_absolute_percentage_error", cv=5).fit(x, y)
    errors = _ridge_errors(x, y, np.array_split(np.arange(40), 5))
    np.testing.assert_allclose(errors[::12], -grid.cv_results_["mean_test_score"], rtol=1e-9)


def test_the_predictor_ranks_what_it_has_not_seen() -> None:
    table = Table(8, 4)
    known, fresh = (table.space.indices(draws(table.space, count, seed)) for count, seed in ((80, 0), (300, 1)))
    light = Light(onehot(table.space, known), table.error(known))
    predicted, true = light.predict(onehot(table.space, fresh)), table.error(fresh)
    assert np.corrcoef(predicted, true)[0, 1] > 0.8
    flat = Light(np.ones((6, 3)), np.arange(6.0))
    assert flat.predict(np.ones((2, 3))).tolist() == [2.5, 2.5]


@pytest.mark.slow
@pytest.mark.parametrize("limit", [np.inf, 9.0])
def test_the_inner_search_finds_the_front_of_what_it_is_given(limit: float) -> None:
    table = Table(6, 4)

    def predict(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        cost = table.cost(rows)
        return np.stack([table.error(rows), cost], axis=1), np.maximum(cost - limit, 0)

    everything = predict(pool(table.space, 10_000, np.random.default_rng(0)))
    possible = everything[0][everything[1] == 0]
    rng = np.random.default_rng(0)
    start = rng.integers(4, size=(50, 6))
    values, violation = predict(evolve(predict, start, np.full(6, 3), 60, rng))
    found = values[violation == 0]
    reference = everything[0].max(axis=0)
    assert hypervolume(found, reference) > 0.99 * hypervolume(possible, reference)
    front = {tuple(row) for row in possible[non_dominated(possible)].round(9).tolist()}
    assert len(front & {tuple(row) for row in found.round(9).tolist()}) > 0.8 * len(front)
    assert len(values) < len(everything[0]) / 2


def test_computable_objectives_are_taken_as_they_are_only_if_asked_for() -> None:
    table = Table(5, 3)
    problem = Problem(table.space, 2, 0, exact={1: table.cost})
    known, fresh = (table.space.indices(draws(table.space, count, seed)) for count, seed in ((12, 0), (20, 1)))
    values = np.stack([table.error(known), table.cost(known)], axis=1)
    exact, predicted = (Predictors(problem, known, values, np.zeros(12), flag)(fresh)[0] for flag in (True, False))
    np.testing.assert_array_equal(exact[:, 1], table.cost(fresh))
    assert not np.allclose(predicted[:, 1], table.cost(fresh), rtol=1e-3)
    np.testing.assert_array_equal(exact[:, 0], predicted[:, 0])


@pytest.mark.slow
def test_reaches_what_random_search_reaches_in_a_third_of_the_evaluations() -> None:
    table = Table(8, 4)
    searcher = Linas(population=15, inner=450)
    goals = [reached(RandomSearch(), table, 150, seed) for seed in range(3)]
    needed = [evaluations(searcher, table, float(np.mean(goals)), seed, 150) for seed in range(3)]
    assert np.median(needed) <= 50


def test_first_and_warm_start() -> None:
    table = Table(7, 3)
    first = drive(Linas(first=12, population=10, inner=100).start(table.problem()), 12, table.values)
    assert drive(Linas(first=12, population=8, inner=80).start(table.problem()), 12, table.values) == first

    known = table.space.indices(first)
    values = table.values(first)
    predictors = Predictors(table.problem(), known, values, np.zeros(12), False)
    settings = Linas(population=10, inner=10)  # one generation: it sees what it starts from
    rng = np.random.default_rng
    assert {*map(tuple, inner_search(predictors, settings, rng(0), known[:4]))} == {*map(tuple, known[:4])}
    cold = inner_search(predictors, settings, rng(0), None)
    assert len(cold) >= 9
    assert {*map(tuple, cold)} != {*map(tuple, known)}


@pytest.mark.slow
def test_measured_constraints_are_predicted() -> None:
    table = Table(8, 3)
    asked = drive(
        Linas(population=15, inner=300).start(table.problem()),
        60,
        table.values,
        lambda values: max(0.0, float(values[1]) - 8),
    )
    kept = table.values(asked)[:, 1] <= 8
    assert kept[30:].mean() > 2 * kept[:15].mean()
    assert kept[30:].mean() > 0.6


def test_bad_settings() -> None:
    with pytest.raises(WrongShapeError, match="at least population"):
        Linas(population=50, inner=10)
    with pytest.raises(WrongShapeError, match="at least 5"):
        Linas(first=3)
