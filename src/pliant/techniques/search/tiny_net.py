"""TinyNet: how much of resolution, depth and width to give up together, as a formula fitted to small networks.

A network at a share c of the full cost is given by three shares, of resolution r, depth d and width w, that cost about
c = d w² r². Random combinations are measured; of those, the best of every cost say how r and d go with c (a regression
each). Width follows: w = sqrt(c / (d r²)). For any budget the formula then gives the network to use, without a search.

The claim of the paper: at small budgets, resolution and depth matter more than width, against the equal shrinking of
all three by compound scaling; TinyNet-E reaches 59.9 % on ImageNet at 24 million FLOPs.

Where this implementation differs: shares are of the options that a space has. A choice named ``resolution`` (or ``…
.resolution``) counts for r, one named ``depth`` for d, all others for w; a share is the mean of the places of their
options between the smallest and the largest size. Where a space lacks one of the three, its share stays 1. The
regressions are Gaussian processes with a radial basis kernel, as published, over the logarithm of c.
"""

from __future__ import annotations

from dataclasses import dataclass
from random import Random
from typing import ClassVar

import numpy as np

from ...checks import WrongShapeError
from ...space import Choice, Config, Problem
from ...space.front import non_dominated
from ...technique import Paper, Proposer, Searcher
from ._arrays import generator
from ._batches import Batches

_ROLES = ("resolution", "depth")
_TRIES = 400


@dataclass(frozen=True)
class TinyNet(Searcher):
    """Fit how resolution, depth and width shrink together, and follow the formula.

    Attributes:
        first: random combinations that are measured before the formula is fitted; at least 4.
        best: the share of them, by fronts of error and cost, that it is fitted to.
        steps: budgets between the smallest and the full cost that the formula is asked for, in a round.
    """

    first: int = 20
    best: float = 0.3
    steps: int = 10

    paper: ClassVar[Paper] = Paper(
        "Han, Wang, Zhang, Zhang, Xu, Zhang",
        2020,
        "Model Rubik's Cube: Twisting Resolution, Depth and Width for TinyNets",
        "2010.14819",
    )

    def __post_init__(self) -> None:
        if self.first < 4 or not 0 < self.best <= 1 or self.steps < 1:
            raise WrongShapeError(
                f"first is at least 4, best a share in (0, 1] and steps at least 1, got {self.first}, {self.best} and "
                f"{self.steps}"
            )

    def start(self, problem: Problem) -> Proposer:
        """Begin a search; ``problem.seed`` and the history decide every config."""
        return _TinyNet(self, problem)


def width_of(c: float, resolution: float, depth: float) -> float:
    """Return the share of width with which a network costs ``c``: c = depth x width² x resolution²."""
    return float(np.sqrt(c / (depth * resolution**2)))


class Formula:
    """Shares of resolution, depth and width at a share of the cost.

    Args:
        costs: shares of the full cost (n,) of good small networks.
        resolutions: their shares of resolution (n,).
        depths: their shares of depth (n,).
        seed: of the regressions' search for hyperparameters.
    """

    def __init__(self, costs: np.ndarray, resolutions: np.ndarray, depths: np.ndarray, seed: int = 0) -> None:
        # The full network is on the curve whatever was measured.
        x = np.log(np.append(costs, 1.0))[:, None]
        self._fits = [_regression(x, np.append(shares, 1.0), seed) for shares in (resolutions, depths)]

    def __call__(self, c: float) -> tuple[float, float, float]:
        """Return the shares of resolution, depth and width at ``c`` of the full cost; all 1 at 1."""
        if c == 1:
            return 1.0, 1.0, 1.0
        resolution, depth = (float(np.clip(fit(np.log(c)), 0.05, 1.0)) for fit in self._fits)
        return resolution, depth, width_of(c, resolution, depth)


def _regression(x: np.ndarray, y: np.ndarray, seed: int):  # type: ignore[no-untyped-def]
    if np.ptp(y) < 1e-12:
        return lambda at: y[0]
    import warnings

    from sklearn.exceptions import ConvergenceWarning
    from sklearn.gaussian_process import GaussianProcessRegressor
    from sklearn.gaussian_process.kernels import RBF, ConstantKernel, WhiteKernel

    kernel = ConstantKernel(0.1, (1e-3, 10.0)) * RBF(1.0, (0.3, 10.0)) + WhiteKernel(0.01, (1e-4, 0.3))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # a bound that is reached is no harm
        fitted = GaussianProcessRegressor(kernel, random_state=seed).fit(x, y - y.mean())
    return lambda at: fitted.predict(np.array([[at]]))[0] + y.mean()


def role(choice: Choice) -> str:
    """Return what a choice counts for: ``resolution``, ``depth`` or ``width``."""
    last = choice.name.rpartition(".")[2]
    return last if last in _ROLES else "width"


def shares_of(choices: tuple[Choice, ...], rows: np.ndarray) -> dict[str, np.ndarray]:
    """Return for each role the mean share (n,) of its choices' sizes, in configs (n, choices) of option indices.

    The share of an option that is a number is its part of the largest; that of another is its place.
    """
    found: dict[str, list[np.ndarray]] = {"resolution": [], "depth": [], "width": []}
    for at, choice in enumerate(choices):
        found[role(choice)].append(_sizes(choice)[rows[:, at]])
    return {name: np.mean(parts, axis=0) if parts else np.ones(len(rows)) for name, parts in found.items()}


def _sizes(choice: Choice) -> np.ndarray:
    numbers = [float(o) for o in choice.options if isinstance(o, (int, float)) and not isinstance(o, bool)]
    if len(numbers) == len(choice.options) and numbers[-1] > 0 and min(numbers) >= 0:
        return np.array(numbers) / numbers[-1]
    return (np.arange(len(choice.options)) + 1.0) / len(choice.options)


class _TinyNet(Batches):
    def __init__(self, settings: TinyNet, problem: Problem) -> None:
        super().__init__(problem)
        self._settings = settings

    def plan(self, rng: Random, number: int) -> list[Config]:
        rows, values, violations = self.data()
        if number == 0 or len(rows) < 4 or not self.space.choices:
            drawn = self.random(rng, max(1, self._settings.first - 1))
            return [self.space.largest(), *drawn] if number == 0 else drawn
        formula, numbers = self._fitted(rows, values, violations), generator(rng)
        low = self._costs(self.space.indices([self.space.smallest()]))[0]
        budgets = np.exp(numbers.uniform(np.log(max(low, 1e-6)), 0.0, self._settings.steps))
        return [self._nearest(formula(float(c)), float(c), numbers) for c in np.sort(budgets)]

    def _costs(self, rows: np.ndarray) -> np.ndarray:
        """Return shares of the full cost (n,): of the first thing that can be counted, else by the formula itself."""
        counts = [*self.problem.exact.values(), *self.problem.statistics.values()]
        if counts:
            full = self.space.indices([self.space.largest()])
            return np.asarray(counts[0](rows), dtype=float) / float(counts[0](full)[0])
        shares = shares_of(self.space.choices, rows)
        return shares["depth"] * shares["width"] ** 2 * shares["resolution"] ** 2

    def _fitted(self, rows: np.ndarray, values: np.ndarray, violations: np.ndarray) -> Formula:
        costs = np.clip(self._costs(rows), 1e-6, 1.0)
        kept, left = list[int](), np.flatnonzero(violations == 0)
        wanted = max(4, round(self._settings.best * len(rows)))
        points = np.column_stack([values[:, 0], costs])
        while len(left) and len(kept) < wanted:
            front = non_dominated(points[left])
            kept += left[front].tolist()
            left = left[~front]
        shares = shares_of(self.space.choices, rows[kept])
        return Formula(costs[kept], shares["resolution"], shares["depth"], self.problem.seed)

    def _nearest(self, shares: tuple[float, float, float], c: float, rng: np.random.Generator) -> Config:
        """Return a config whose shares are near ``shares``, and whose cost is near ``c``.

        Every choice takes one of the two options around its role's share; which, is drawn.
        """
        wanted = dict(zip(("resolution", "depth", "width"), shares, strict=True))
        drawn = np.empty((_TRIES, len(self.space.choices)), dtype=np.int64)
        for at, (choice, allowed) in enumerate(zip(self.space.choices, self.space.allowed(), strict=True)):
            sizes, share = _sizes(choice)[allowed], wanted[role(choice)]
            above = int(np.clip(np.searchsorted(sizes, share), 0, len(sizes) - 1))
            below = max(above - 1, 0) if sizes[above] > share else above
            span = sizes[above] - sizes[below]
            chance = (share - sizes[below]) / span if span > 0 else 0.0
            drawn[:, at] = allowed[np.where(rng.random(_TRIES) < chance, above, below)]
        found = shares_of(self.space.choices, drawn)
        away = sum((found[name] - wanted[name]) ** 2 for name in wanted)
        gap = np.abs(np.log(np.maximum(self._costs(drawn), 1e-9) / c))
        return self.space.configs(drawn[np.argmin(gap + np.sqrt(away))][None])[0]
