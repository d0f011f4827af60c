"""NSGA-II on integers, with the operators that pymoo's takes by default: an inner search on predictions."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ._standing import best, standing

Predict = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]
"""Places of options (n, choices) to values (n, objectives) and violations (n,)."""

_TRIES = 100
_CROSSOVER, _SPREAD = 0.9, 15.0
_MUTATION, _STEP = 0.02, 20.0


def evolve(
    predict: Predict, start: np.ndarray, tops: np.ndarray, generations: int, rng: np.random.Generator
) -> np.ndarray:
    """Return all different rows (n, choices) that an NSGA-II with elitism looked at.

    Parents win a tournament of two; simulated binary crossover (probability 0.9, index 15, each variable with one half)
    and polynomial mutation (0.02 per child, index 20) give children, which are rounded; those that the population
    holds already are bred again. The operators are pymoo's, the loop is not: pymoo's takes some thirty times as long,
    and seeds numpy's global generator.

    Args:
        predict: tells how good rows are.
        start: the first population (n, choices) of integers.
        tops: the largest integer of each column (choices,); the smallest is 0.
        generations: how often as many children as there are parents are bred and judged, the first population included.
        rng: decides.
    """
    alive = np.unique(start, axis=0)
    values, violation = predict(alive)
    seen = [alive]
    for _ in range(generations - 1):
        children = _children(alive, *standing(values, violation), tops, len(start), rng)
        if not len(children):
            break
        seen.append(children)
        more, broken = predict(children)
        alive = np.concatenate([alive, children])
        values, violation = np.concatenate([values, more]), np.concatenate([violation, broken])
        kept = best(values, violation)[: len(start)]
        alive, values, violation = alive[kept], values[kept], violation[kept]
    return np.unique(np.concatenate(seen), axis=0)


def _children(
    alive: np.ndarray, rank: np.ndarray, distance: np.ndarray, tops: np.ndarray, count: int, rng: np.random.Generator
) -> np.ndarray:
    """Up to ``count`` new rows."""
    known = {row.tobytes() for row in alive}
    found: list[np.ndarray] = []
    for _ in range(_TRIES):
        for row in _bred(alive[_winners(rank, distance, count + count % 2, rng)], tops, rng):
            if len(found) < count and row.tobytes() not in known:
                known.add(row.tobytes())
                found.append(row)
        if len(found) >= count:
            break
    return np.array(found, dtype=alive.dtype).reshape(len(found), alive.shape[1])


def _winners(rank: np.ndarray, distance: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    first, second = rng.integers(len(rank), size=(2, count))
    worse = (rank[second] < rank[first]) | ((rank[second] == rank[first]) & (distance[second] > distance[first]))
    return np.where(worse, second, first)


def _bred(parents: np.ndarray, tops: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A child per row of ``parents`` (an even number of them)."""
    from pymoo.operators.crossover.sbx import cross_sbx
    from pymoo.operators.mutation.pm import mut_pm

    low, high = np.zeros(len(tops)), tops.astype(float)
    pairs = parents.reshape(2, -1, len(tops)).astype(float)
    ones = np.ones((pairs.shape[1], 1))
    mixed = cross_sbx(pairs, low, high, _SPREAD * ones, 0.5, 0.5 * ones, random_state=rng)
    mixed = np.where(rng.random((1, *ones.shape)) < _CROSSOVER, mixed, pairs).reshape(len(parents), -1)
    each = np.full(len(mixed), min(0.5, 1 / max(1, len(tops))))
    moved = mut_pm(mixed, low, high, np.full(len(mixed), _STEP), each, False, random_state=rng)
    children = np.where(rng.random((len(mixed), 1)) < _MUTATION, moved, mixed)
    return np.asarray(np.rint(children), dtype=parents.dtype)
