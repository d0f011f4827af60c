"""What a model-based searcher believes of configs: one model per measured objective, and what a config would gain."""

from __future__ import annotations

import numpy as np
from scipy.special import ndtr

from ...space import Problem
from ...space.front import non_dominated
from ._features import Features
from ._gp import GaussianProcess, distances
from ._improvement import Belief, Exact, LogNormal, Normal, boxes, expected_improvement

_MODELLED = 400
"""Measurements that the models see; of more, the best and the latest."""
_FRONT = {1: 1000, 2: 1000, 3: 60}
_FRONT_OF_MANY = 16
"""How many points of the front are cut into boxes, by the number of objectives."""
_KEEPS_NOISE = 0.3
"""Standard deviation, in units of kept (-1) against broken (1), of how much can be read from one config."""


class Beliefs:
    """Models of the objectives that must be measured, and the expected gain of a config under them.

    Args:
        problem: says which objectives are exact.
        features: of configs.
        log: whether to model positive objectives by their logarithm.
    """

    def __init__(self, problem: Problem, features: Features, log: bool) -> None:
        self._problem, self._features, self._log = problem, features, log
        sizes = [group.stop - group.start for group in features.groups]
        self._models = {
            at: GaussianProcess(sizes, features.overlap) for at in range(problem.objectives) if at not in problem.exact
        }
        self._keeps = GaussianProcess(sizes, features.overlap, noise=(np.log(_KEEPS_NOISE), 0.5))
        self._tuned = 0
        self.parents = np.empty((0, len(problem.space.choices)), dtype=np.int64)

    def learn(self, rows: np.ndarray, values: np.ndarray, violations: np.ndarray, pending: np.ndarray) -> None:
        """Fit the models to what was measured, and take what is ``pending`` for measured as predicted.

        Args:
            rows: option indices (n, choices); at least two of them were measured without failing.
            values: (n, objectives), infinite where measuring failed.
            violations: (n,), 0 where all constraints hold.
            pending: option indices (m, choices) of configs in flight.
        """
        rows, values, violations = _reduced(rows, values, violations)
        good = np.isfinite(values).all(axis=1) & np.isfinite(violations)
        self._logged = {at: self._log and bool((values[good, at] > 0).all()) for at in self._models}
        steps = self._steps(len(rows))
        features = self._features(rows)
        squares = distances(self._features.groups, *[features.astype(np.float64)] * 2)
        targets = {at: np.log(values[good, at]) if self._logged[at] else values[good, at] for at in self._models}
        for at, model in self._models.items():
            model.fit(squares[:, good][:, :, good], targets[at], iterations=steps)
        self._limited = bool((violations > 0).any())
        if self._limited:
            broken = np.where(violations > 0, 0.5 + 0.5 * np.minimum(violations, 1.0), -1.0)
            self._keeps.fit(squares, broken, iterations=steps)
        self._points, self._all = features[good], features
        known, kept = rows[good], violations[good] == 0
        if len(pending):
            likely = self._likely(pending)
            self._believe(pending, targets)
            known, kept = np.concatenate([known, pending]), np.concatenate([kept, likely > 0.5])
        self._set_front(known, kept, values[good])

    def _steps(self, count: int) -> int:
        """Return how long to search for hyperparameters: rarely, and from where they stand, when there is much data."""
        if count == self._tuned or (count > 20 and count < self._tuned * 1.06 + 2):
            return 0
        first, self._tuned = self._tuned == 0, count
        return 60 if first else 15

    def _believe(self, pending: np.ndarray, targets: dict[int, np.ndarray]) -> None:
        """Fit the models to their own predictions of ``pending`` too, so that the same is not asked for twice."""
        features = self._features(pending)
        reach = distances(self._features.groups, features, self._points)
        points = np.concatenate([self._points, features])
        squares = distances(self._features.groups, *[points.astype(np.float64)] * 2)
        for at, model in self._models.items():
            model.fit(squares, np.concatenate([targets[at], model.predict(reach)[0]]))
        self._points = points

    def _likely(self, rows: np.ndarray) -> np.ndarray:
        """Return the predicted chance (n,) that configs keep the constraints that must be measured."""
        if not self._limited:
            return np.ones(len(rows))
        mean, deviation = self._keeps.predict(distances(self._features.groups, self._features(rows), self._all))
        return ndtr(-mean / np.hypot(deviation, _KEEPS_NOISE))

    def _predict(self, rows: np.ndarray) -> dict[int, tuple[np.ndarray, np.ndarray]]:
        reach = distances(self._features.groups, self._features(rows), self._points)
        return {at: model.predict(reach) for at, model in self._models.items()}

    def _set_front(self, known: np.ndarray, kept: np.ndarray, measured: np.ndarray) -> None:
        """Cut what the feasible of the ``known`` rows leave undominated; their values are smoothed by the models."""
        predicted = self._predict(known)
        columns = []
        for at in range(self._problem.objectives):
            if at in self._models:
                mean = predicted[at][0]
                columns.append(np.exp(np.minimum(mean, 700.0)) if self._logged[at] else mean)
            else:
                columns.append(np.asarray(self._problem.exact[at](known), dtype=float))
        points = np.stack(columns, axis=1)
        self._feasible = bool(kept.any())
        self.parents = known
        if not self._feasible:
            return
        points, rows = points[kept], known[kept]
        top = np.maximum(points.max(axis=0), measured[kept[: len(measured)]].max(axis=0, initial=-np.inf))
        reference = top + 1e-9 * np.maximum(np.abs(top), 1.0)
        mask = non_dominated(points)
        self.parents = rows[mask]
        self._lower, self._upper = boxes(_thinned(points[mask]), reference)

    def gain(self, rows: np.ndarray, exploration: float) -> np.ndarray:
        """Return what configs (n, choices) are expected to gain (n,): hypervolume, times the chance of feasibility.

        Args:
            rows: option indices.
            exploration: scales the deviations; infinite asks for the deviations alone.
        """
        likely = self._likely(rows)
        if not self._feasible and np.isfinite(exploration):
            return likely
        predicted = self._predict(rows)
        if not np.isfinite(exploration):
            return likely * sum((deviation for _, deviation in predicted.values()), np.full(len(rows), 1e-9))
        beliefs: list[Belief] = []
        for at in range(self._problem.objectives):
            if at not in self._models:
                beliefs.append(Exact(np.asarray(self._problem.exact[at](rows), dtype=float)))
                continue
            mean, deviation = predicted[at]
            kind = LogNormal if self._logged[at] else Normal
            beliefs.append(kind(mean, deviation * exploration))
        return likely * expected_improvement(beliefs, self._lower, self._upper)


def _reduced(rows: np.ndarray, values: np.ndarray, violations: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return at most so many measurements as can be modelled: the half that is best, and the latest."""
    if len(rows) <= _MODELLED:
        return rows, values, violations
    left, kept = np.arange(len(rows)), list[int]()
    left = left[np.isfinite(values).all(axis=1) & (violations == 0)]
    while len(left) and len(kept) < _MODELLED // 2:
        front = non_dominated(values[left])
        kept += left[front].tolist()
        left = left[~front]
    kept = kept[: _MODELLED // 2]
    chosen = set(kept)
    for at in range(len(rows) - 1, -1, -1):
        if len(chosen) >= _MODELLED:
            break
        chosen.add(at)
    picked = sorted(chosen)
    return rows[picked], values[picked], violations[picked]


def _thinned(front: np.ndarray) -> np.ndarray:
    """Return at most so many points of ``front`` as can be cut quickly: evenly along the first objective."""
    limit = _FRONT.get(front.shape[1], _FRONT_OF_MANY)
    if len(front) <= limit:
        return front
    order = np.argsort(front[:, 0], kind="stable")
    return front[order[np.linspace(0, len(front) - 1, limit).round().astype(int)]]
