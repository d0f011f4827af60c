"""A table or a formula to search, with its true front known."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np

from pliant.space import Config, Forms, Problem, Space
from pliant.space.front import hypervolume, non_dominated
from pliant.space.problem import Count


@dataclass(frozen=True)
class Case:
    """What is searched.

    Attributes:
        name: for files and tables.
        space: the configs.
        truth: option indices (n, choices) to the true values (n, 2): what must be measured, then the exact cost.
        front: the true front (k, 2).
        low, high: the values that count as 0 and 1 in a hypervolume.
        statistics: free numbers of a config beside the cost.
        canonical, active: as in :class:`pliant.space.Forms`.
        noise: standard deviation of the logarithm of the measured value around the true one.
    """

    name: str
    space: Space
    truth: Callable[[np.ndarray], np.ndarray]
    front: np.ndarray
    low: np.ndarray
    high: np.ndarray
    statistics: Mapping[str, Count] = field(default_factory=dict)
    canonical: Callable[[np.ndarray], np.ndarray] | None = None
    active: Callable[[np.ndarray], np.ndarray] | None = None
    noise: float = 0.0

    def problem(self, seed: int) -> Problem:
        """Return what a searcher is given."""
        return Problem(
            self.space,
            2,
            seed,
            exact={1: lambda indices: self.truth(indices)[:, 1]},
            statistics=self.statistics,
            forms=None if self.canonical is None else Forms(self.canonical, self.active),
        )

    def measured(self, config: Config, seed: int) -> tuple[list[float], np.ndarray]:
        """Return what a measurement of ``config`` gives, always the same for one ``seed``, and the truth (2,)."""
        truth = self.truth(self.space.indices([config]))[0]
        if not self.noise:
            return truth.tolist(), truth
        number = int(config.key, 16) % 2**32
        factor = np.exp(self.noise * np.random.default_rng([seed, number]).standard_normal())
        return [float(truth[0] * factor), float(truth[1])], truth

    def same(self, config: Config) -> Config:
        """Return the config that stands for the same network."""
        return self.problem(0).same([config])[0]

    def scaled(self, values: np.ndarray) -> np.ndarray:
        """Return values (n, 2) so that ``low`` is 0 and ``high`` is 1."""
        return (np.asarray(values, dtype=float) - self.low) / (self.high - self.low)

    @property
    def best(self) -> float:
        """The hypervolume of the true front, up to (1, 1)."""
        return hypervolume(self.scaled(self.front), np.ones(2))

    def regrets(self, values: np.ndarray) -> np.ndarray:
        """Return for each count of measurements (n,) how much hypervolume the front of true values still lacks."""
        points, best = self.scaled(values), self.best
        found, now, volume = np.empty(len(points)), np.empty((0, 2)), 0.0
        for at, point in enumerate(points):
            if not (now <= point).all(axis=1).any():
                now = np.vstack([now, point])
                now = now[non_dominated(now)]
                volume = hypervolume(now, np.ones(2))
            found[at] = best - volume
        return found

    def share(self, values: np.ndarray) -> float:
        """Return the share of the true front's points that are among ``values`` (n, 2)."""
        near = [np.isclose(values, point, rtol=1e-9, atol=0).all(axis=1).any() for point in self.front]
        return float(np.mean(near))
