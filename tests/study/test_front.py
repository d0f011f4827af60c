"""The front against brute force."""

from __future__ import annotations

import numpy as np
import pytest

from pliant.study.front import non_dominated


@pytest.mark.parametrize("objectives", [1, 2, 3, 4])
def test_against_brute_force(objectives: int) -> None:
    points = np.random.default_rng(objectives).integers(0, 7, (60, objectives)).astype(float)
    expected = [not any((other <= point).all() and (other < point).any() for other in points) for point in points]
    assert non_dominated(points).tolist() == expected


def test_equal_points_stay_together() -> None:
    assert non_dominated(np.array([[1.0, 2.0], [1.0, 2.0], [1.0, 3.0]])).tolist() == [True, True, False]
    assert non_dominated(np.empty((0, 2))).tolist() == []
