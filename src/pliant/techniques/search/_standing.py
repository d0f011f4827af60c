"""How good each of several configs is beside the others, with any number of objectives and with constraints."""

from __future__ import annotations

import numpy as np


def standing(values: np.ndarray, violation: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return rank (0 is the first front) and crowding distance within the rank, both (n,).

    Args:
        values: (n, objectives), minimised.
        violation: (n,). What breaks constraints ranks behind what does not, by how much it does; equals share a rank.
            Their crowding is zero.
    """
    rank, crowding = np.zeros(len(values), dtype=int), np.zeros(len(values))
    feasible = np.flatnonzero(violation == 0)
    last = -1
    if len(feasible):
        from pymoo.operators.survival.rank_and_crowding.metrics import calc_crowding_distance

        rank[feasible] = ranks(values[feasible])
        last = int(rank[feasible].max())
        crowding[feasible] = np.inf
        order = feasible[np.argsort(rank[feasible], kind="stable")]
        for front in np.split(order, np.cumsum(np.bincount(rank[feasible]))[:-1]):
            if len(front) > 2:
                crowding[front] = calc_crowding_distance(values[front])
    levels, place = np.unique(violation[violation != 0], return_inverse=True)
    if len(levels):
        rank[violation != 0] = last + 1 + place
    return rank, crowding


def ranks(values: np.ndarray) -> np.ndarray:
    """Return for each row of ``values`` (n, objectives), all minimised, how many fronts lie before its own (n,)."""
    if values.shape[1] == 1:
        return np.unique(values[:, 0], return_inverse=True)[1]
    from moocore import pareto_rank

    return np.asarray(pareto_rank(values), dtype=int)


def best(values: np.ndarray, violation: np.ndarray) -> np.ndarray:
    """Return the rows from the best to the worst (n,): by rank, then by crowding distance, then the earlier."""
    rank, crowding = standing(values, violation)
    return np.lexsort((np.arange(len(rank)), -crowding, rank))
