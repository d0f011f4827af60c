"""AGE-MOEA: its geometry against pymoo's and against spheres of known exponent, its search against random search."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from pliant.checks import WrongShapeError
from pliant.techniques.search.age_moea import (
    AgeMoea,
    corners,
    exponent,
    intercepts,
    spread,
    standing,
    survival_score,
)
from pliant.techniques.search.random_search import RandomSearch
from tests.techniques.search.table import Table, drive, reached


def sphere(count: int, objectives: int, p: float, seed: int = 0) -> np.ndarray:
    """Points with sum(x ** p) == 1, the corners and the middle among them."""
    rng = np.random.default_rng(seed)
    weights = np.concatenate([np.eye(objectives), rng.dirichlet(np.ones(objectives), count), np.ones((1, objectives))])
    return np.asarray((weights / weights.sum(axis=1, keepdims=True)) ** (1 / p))


@pytest.mark.parametrize("objectives", [2, 3])
@pytest.mark.parametrize("p", [1.0, 1.5, 4.0])
def test_the_exponent_of_a_sphere_is_found(objectives: int, p: float) -> None:
    front = sphere(30, objectives, p)
    at = corners(front)
    assert sorted(at) == list(range(objectives))
    np.testing.assert_allclose(intercepts(front, at), 1)
    assert exponent(front, at) == pytest.approx(p)
    stretched = front * [7, 0.1, 3][:objectives]
    np.testing.assert_allclose(intercepts(stretched, corners(stretched)), [7, 0.1, 3][:objectives])


def test_scores_word_for_word() -> None:
    values = sphere(9, 2, 2.0) + np.array([3.0, -1.0])
    score = survival_score(values, np.zeros(len(values), dtype=int))
    points = values - np.array([3.0, -1.0])
    chosen, left = [0, 1], list(range(2, len(values)))
    while left:
        merits = {}
        for row in left:
            near = sorted(math.dist(points[row], points[other]) for other in chosen)[:2]
            merits[row] = sum(near) / math.hypot(*points[row])
        best = max(left, key=lambda row: merits[row])
        assert score[best] == pytest.approx(merits[best], rel=1e-6)
        chosen.append(best)
        left.remove(best)
    assert np.isinf(score[:2]).all()


def test_later_fronts_score_by_proximity() -> None:
    first = sphere(10, 2, 1.0)
    values = np.concatenate([first, first + 0.1, first[:4] + 0.3])
    rank, score = standing(values, np.zeros(len(values)))
    assert rank.tolist() == [0] * 13 + [1] * 13 + [2] * 4
    np.testing.assert_allclose(1 / score[13:26], (first + 0.1).sum(axis=1), rtol=1e-9)  # the L1 norm
    assert np.argmax(score[26:]) == np.argmin(values[26:].sum(axis=1))


def test_violations_rank_last() -> None:
    values = np.array([[1.0, 2.0], [2.0, 1.0], [0.0, 0.0], [5.0, 5.0], [0.0, 1.0]])
    rank, score = standing(values, np.array([0, 0, 2.0, 0, 1.0]))
    assert rank.tolist() == [0, 0, 3, 1, 2]
    assert score[2] == score[4] == 0


@pytest.mark.slow  # numba compiles
@pytest.mark.parametrize("objectives", [2, 3])
def test_against_pymoo(objectives: int, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("numba")
    import pymoo.algorithms.moo.age as peer

    survival: Any = peer.AGEMOEASurvival()
    for seed in range(5):
        values = sphere(25, objectives, 1.7, seed) * np.arange(1, objectives + 1) + 2
        score, p, scale = survival.survival_score(values.copy(), values.min(axis=0))
        moved = np.round(values, 12) - values.min(axis=0)
        at = corners(moved)
        assert at.tolist() == peer.find_corner_solutions(moved).tolist()
        np.testing.assert_allclose(intercepts(moved, at), scale)
        scaled = moved / scale
        assert exponent(scaled, at) == pytest.approx(p)
        between = survival.pairwise_distances(scaled, p)
        proximity = np.linalg.norm(scaled, p, axis=1)
        theirs = between / proximity[None]  # they divide by the proximity of the neighbour
        np.testing.assert_allclose(spread(theirs, at), score)


@pytest.mark.slow
def test_same_generation_as_expected_and_better_than_random() -> None:
    table = Table(10, 4)
    seeds = range(4)
    evolved = [reached(AgeMoea(), table, 160, seed) for seed in seeds]
    drawn = [reached(RandomSearch(), table, 160, seed) for seed in seeds]
    assert min(evolved) > max(drawn)


def test_three_objectives_with_equal_rows() -> None:
    table = Table(5, 3)

    def measure(configs: object) -> np.ndarray:
        values = table.values(configs)  # type: ignore[arg-type]
        return np.concatenate([np.round(values / 4), np.ones((len(values), 1))], axis=1)

    from pliant.space import Problem

    assert len(set(drive(AgeMoea(population=6).start(Problem(table.space, 3, 0)), 60, measure))) == 60


def test_bad_settings() -> None:
    with pytest.raises(WrongShapeError, match="at least 2"):
        AgeMoea(population=1)
    with pytest.raises(WrongShapeError, match="crossover is a probability"):
        AgeMoea(crossover=1.5)
