"""A formula of 200 choices with interactions and noise, whose front is computed exactly.

Each choice has four options. More of it costs a whole number and brings down the logarithm of the error, with
diminishing returns, by how much differs from choice to choice; neighbours that differ by more than one step cost extra
error. So the sum over a chain is to be minimised for every cost, which dynamic programming does exactly. What is
measured is exp(sum) times log-normal noise.
"""

from __future__ import annotations

import numpy as np

from pliant.space import Choice, Space
from pliant.space.front import non_dominated

from .case import Case

_OPTIONS = 4


class Chain:
    """Random gains, costs and interactions of ``choices`` choices in a row."""

    def __init__(self, choices: int, seed: int) -> None:
        rng = np.random.default_rng(seed)
        steps = np.arange(_OPTIONS)
        scale = rng.gamma(1.0, 1.0, choices)  # few choices matter much
        bend = rng.uniform(0.3, 1.0, choices)
        self.own = -scale[:, None] * (steps / (_OPTIONS - 1)) ** bend[:, None]
        self.own *= 3.0 / scale.sum()  # errors span about e^3
        unit = rng.integers(1, 6, choices)
        self.cost = unit[:, None] * steps
        jump = np.maximum(np.abs(steps[:, None] - steps) - 1, 0)
        self.pair = rng.gamma(1.0, 1.0, choices - 1)[:, None, None] * jump * (0.3 / choices)

    def values(self, indices: np.ndarray) -> np.ndarray:
        """Return error and cost (n, 2) of option ``indices`` (n, choices)."""
        at = np.arange(indices.shape[1])
        total = self.own[at, indices].sum(axis=1) + self.pair[at[:-1], indices[:, :-1], indices[:, 1:]].sum(axis=1)
        return np.stack([100.0 * np.exp(total - 1.0), 100.0 + self.cost[at, indices].sum(axis=1)], axis=1)

    def front(self) -> np.ndarray:
        """Return the true front (k, 2): for every cost the least error, by dynamic programming along the chain."""
        top = int(self.cost[:, -1].sum())
        best = np.full((_OPTIONS, top + 1), np.inf)  # by the last option and the cost so far
        for option in range(_OPTIONS):
            best[option, self.cost[0, option]] = self.own[0, option]
        for at in range(1, len(self.own)):
            after = np.full_like(best, np.inf)
            for option in range(_OPTIONS):
                step = int(self.cost[at, option])
                least = (best + self.pair[at - 1, :, option][:, None]).min(axis=0)
                after[option, step:] = least[: top + 1 - step] + self.own[at, option]
            best = after
        least = best.min(axis=0)
        reached = np.isfinite(least)
        points = np.stack([100.0 * np.exp(least[reached] - 1.0), 100.0 + np.flatnonzero(reached)], axis=1)
        return points[non_dominated(points)]


def make(choices: int = 200, seed: int = 7, noise: float = 0.02) -> Case:
    """Return the case; 0 to 1 are from the front's ends to the smallest config's error and the largest's cost."""
    chain = Chain(choices, seed)
    ends = chain.values(np.array([[0] * choices, [_OPTIONS - 1] * choices]))
    front = chain.front()
    return Case(
        f"synthetic-{choices}",
        Space([Choice(f"layers.{at}.width", (1, 2, 3, 4)) for at in range(choices)]),
        truth=chain.values,
        front=front,
        low=front.min(axis=0),
        high=ends.max(axis=0),
        noise=noise,
    )
