"""AGE-MOEA: an evolution whose notion of distance fits the curve of the front that it finds.

It differs from NSGA-II in what decides within a rank. The first front is moved to the origin and scaled by the
intercepts of the plane through its corners; the point nearest to the diagonal tells the exponent p of the Lp norm in
whose unit sphere the front lies. A point of the first front scores by how far it lies from its two nearest
already chosen neighbours, over its distance to the ideal point (diversity by proximity, both in that norm), chosen
greedily from the corners on; a point of a later front scores by proximity alone.

The claim of the paper: on problems of three and more objectives better hypervolume and inverted generational distance
than NSGA-III, MOEA/D and others on most of the test functions, without reference directions to tune.

This implementation computes the survival score with numpy, because pymoo's needs numba; it also follows the paper
where pymoo 0.6.2 does not: a distance is divided by the proximity of the candidate itself (there by that of its
neighbour), the last front that survives in part is scored too (there it is cut arbitrarily), and later fronts are
moved to the origin before they are scaled (there afterwards). Crossover, mutation, first population and constraints
are those of our NSGA-II.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from ...space import Problem
from ...technique import Paper, Proposer, Searcher
from ._evolution import Evolution, check
from ._standing import ranks

_TINY = 1e-8


@dataclass(frozen=True)
class AgeMoea(Searcher):
    """Adaptive geometry estimation: an evolution that spreads over the front in the front's own geometry.

    Attributes:
        population: configs per generation, and survivors; at least 2.
        crossover: probability that a child mixes two parents rather than copying the first.
        mutation: probability per choice of another option; one over the number of choices where ``None``.
    """

    population: int = 20
    crossover: float = 0.9
    mutation: float | None = None

    paper: ClassVar[Paper] = Paper(
        "Panichella",
        2019,
        "An Adaptive Evolutionary Algorithm Based on Non-Euclidean Geometry for Many-Objective Optimization",
    )

    def __post_init__(self) -> None:
        check(self.population, crossover=self.crossover, mutation=self.mutation)

    def start(self, problem: Problem) -> Proposer:
        """Begin a search; ``problem.seed`` and the history decide every config."""
        return Evolution(problem, standing, self.population, self.crossover, self.mutation)


def standing(values: np.ndarray, violation: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return rank (0 is the first front) and survival score (more is better), both (n,).

    Args:
        values: (n, objectives), minimised.
        violation: (n,). What breaks constraints ranks behind what does not, by how much it does, with score zero.
    """
    rank, score = np.zeros(len(values), dtype=int), np.zeros(len(values))
    feasible = np.flatnonzero(violation == 0)
    if len(feasible):
        rank[feasible] = ranks(values[feasible])
        score[feasible] = survival_score(values[feasible], rank[feasible])
    levels, place = np.unique(violation[violation != 0], return_inverse=True)
    if len(levels):
        rank[violation != 0] = rank.max(initial=-1, where=violation == 0) + 1 + place
    return rank, score


def survival_score(values: np.ndarray, rank: np.ndarray) -> np.ndarray:
    """Return the score (n,) of feasible ``values`` (n, objectives) with their ``rank`` (n,), of which some are 0."""
    score = np.zeros(len(values))
    first = rank == 0
    moved = values - values[first].min(axis=0)
    objectives = values.shape[1]
    front = moved[first]
    if len(front) <= objectives:
        at, scale, p = np.arange(len(front)), _top(front), 1.0
    else:
        at = corners(front)
        scale = intercepts(front, at)
        p = exponent(front / scale, at)
    scaled = moved / scale
    proximity = np.maximum((np.abs(scaled) ** p).sum(axis=1) ** (1 / p), _TINY)
    between = (np.abs(scaled[first][:, None] - scaled[first][None]) ** p).sum(axis=2) ** (1 / p)
    score[first] = spread(np.maximum(between, _TINY) / proximity[first][:, None], at)
    score[~first] = 1 / proximity[~first]
    return score


def corners(front: np.ndarray) -> np.ndarray:
    """Return per objective the row of ``front`` (n, objectives), whose ideal is 0, nearest to its axis; all differ."""
    found: list[int] = []
    for axis in np.eye(front.shape[1]) + 1e-6:
        away = _from_line(front, axis)
        away[found] = np.inf
        found.append(int(away.argmin()))
    return np.array(found)


def _from_line(points: np.ndarray, direction: np.ndarray) -> np.ndarray:
    """Squared distance (n,) of ``points`` (n, objectives) from the line through the origin."""
    along = points @ direction / (direction @ direction)
    return np.asarray(((points - along[:, None] * direction) ** 2).sum(axis=1))


def _top(front: np.ndarray) -> np.ndarray:
    top = front.max(axis=0)
    return np.where(top > 0, top, 1.0)


def intercepts(front: np.ndarray, at: np.ndarray) -> np.ndarray:
    """Return where the plane through the corners ``at`` cuts the axes (objectives,); the extent if it does not."""
    try:
        with np.errstate(divide="ignore", over="ignore"):
            cut = 1 / np.linalg.solve(front[at], np.ones(front.shape[1]))
    except np.linalg.LinAlgError:
        return _top(front)
    return cut if (np.isfinite(cut) & (cut > 0)).all() else _top(front)


def exponent(front: np.ndarray, at: np.ndarray) -> float:
    """Return the p whose unit sphere passes through the point of ``front`` (scaled) nearest to the diagonal."""
    away = _from_line(front, np.ones(front.shape[1]))
    away[at] = np.inf
    middle = front[away.argmin()].mean()
    if not 0 < middle < 1:
        return 1.0
    p = float(np.log(front.shape[1]) / -np.log(middle))
    return min(p, 20.0) if p > 0.1 else 1.0


def spread(distance: np.ndarray, at: np.ndarray) -> np.ndarray:
    """Return the score (n,) of a front: infinite in the corners ``at``, else as each was when it was picked.

    Args:
        distance: (n, n), how far the row's point lies from the column's, over the row's proximity.
        at: the rows that are picked at the start; then always the one whose two nearest picked lie farthest.
    """
    score = np.zeros(len(distance))
    score[at] = np.inf
    picked, left = list(at), [row for row in range(len(distance)) if row not in set(at)]
    while left:
        near = np.sort(distance[np.ix_(left, picked)], axis=1)[:, :2].sum(axis=1)
        best = int(near.argmax())
        score[left[best]] = near[best]
        picked.append(left.pop(best))
    return score
