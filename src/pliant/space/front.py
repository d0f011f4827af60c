"""Which points no other point beats."""

from __future__ import annotations

import numpy as np

from ..checks import WrongShapeError


def non_dominated(points: np.ndarray) -> np.ndarray:
    """Return the mask (n,) of the rows of ``points`` (n, objectives), all minimised, that no other row dominates.

    A row dominates another that it beats in one objective while it is worse in none; equal rows do not.
    """
    mask = np.ones(len(points), dtype=bool)
    for index, point in enumerate(points):
        better = (points <= point).all(axis=1) & (points < point).any(axis=1)
        mask[index] = not better.any()
    return mask


def hypervolume(points: np.ndarray, reference: np.ndarray) -> float:
    """Return the volume that the rows of ``points`` (n, objectives), all minimised, dominate up to ``reference``.

    Rows that are not finite or not better than ``reference`` (objectives,) everywhere add nothing. The computation is
    that of moocore (Fonseca, Paquete and López-Ibáñez, 2006, An improved dimension-sweep algorithm for the hypervolume
    indicator).

    Raises:
        WrongShapeError: the rows and ``reference`` are not of one length.
    """
    points, reference = np.asarray(points, dtype=float), np.asarray(reference, dtype=float)
    if points.ndim != 2 or reference.shape != points.shape[1:]:
        raise WrongShapeError(
            f"expected points (n, objectives) and a reference (objectives,), got {points.shape} and {reference.shape}"
        )
    inside = points[(points < reference).all(axis=1)]  # also leaves out nan
    inside = np.maximum(inside, -1e300)
    if not len(inside):
        return 0.0
    if len(reference) == 1:
        return float(reference[0] - inside.min())
    from moocore import hypervolume as volume  # here, because it costs a fifth of a second

    return float(volume(inside, ref=reference))
