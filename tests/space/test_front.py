"""The front against brute force."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from pliant.checks import WrongShapeError
from pliant.space.front import hypervolume, non_dominated


@pytest.mark.parametrize("objectives", [1, 2, 3, 4])
def test_against_brute_force(objectives: int) -> None:
    points = np.random.default_rng(objectives).integers(0, 7, (60, objectives)).astype(float)
    expected = [not any((other <= point).all() and (other < point).any() for other in points) for point in points]
    assert non_dominated(points).tolist() == expected


def test_equal_points_stay_together() -> None:
    assert non_dominated(np.array([[1.0, 2.0], [1.0, 2.0], [1.0, 3.0]])).tolist() == [True, True, False]
    assert non_dominated(np.empty((0, 2))).tolist() == []


def brute_volume(points: np.ndarray, reference: np.ndarray) -> float:
    """Cut the box at every coordinate, and add up the cells that some point dominates."""
    edges = [np.unique(np.append(column, end)) for column, end in zip(points.T, reference, strict=True)]
    edges = [edge[edge <= end] for edge, end in zip(edges, reference, strict=True)]
    total = 0.0
    for cell in itertools.product(*[range(len(edge) - 1) for edge in edges]):
        low = np.array([edge[at] for edge, at in zip(edges, cell, strict=True)])
        high = np.array([edge[at + 1] for edge, at in zip(edges, cell, strict=True)])
        if (points <= low).all(axis=1).any():
            total += float(np.prod(high - low))
    return total


@pytest.mark.parametrize("objectives", [1, 2, 3, 4])
def test_hypervolume_against_brute_force(objectives: int) -> None:
    rng = np.random.default_rng(objectives)
    for _ in range(5):
        points, reference = rng.random((9, objectives)), np.full(objectives, 0.8)
        assert hypervolume(points, reference) == pytest.approx(brute_volume(points, reference))


def test_hypervolume_of_nothing_and_of_failures() -> None:
    reference = np.array([1.0, 1.0])
    assert hypervolume(np.empty((0, 2)), reference) == 0
    assert hypervolume(np.array([[np.inf, np.inf], [np.nan, 0.0], [2.0, 0.5]]), reference) == 0
    with pytest.raises(WrongShapeError, match="reference"):
        hypervolume(np.ones((3, 3)), reference)
