"""Which points no other point beats."""

from __future__ import annotations

import numpy as np


def non_dominated(points: np.ndarray) -> np.ndarray:
    """Return the mask (n,) of the rows of ``points`` (n, objectives), all minimised, that no other row dominates.

    A row dominates another that it beats in one objective while it is worse in none; equal rows do not.
    """
    mask = np.ones(len(points), dtype=bool)
    for index, point in enumerate(points):
        better = (points <= point).all(axis=1) & (points < point).any(axis=1)
        mask[index] = not better.any()
    return mask
