"""Tabulated problems for searchers: every config's values are known, so a front can be compared with the true one."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from random import Random

import numpy as np

from pliant.space import Choice, Config, Problem, Space
from pliant.space.front import hypervolume
from pliant.technique import Proposer, Searcher


class Table:
    """A made-up family whose error falls with size, unevenly and with interactions, and whose cost rises.

    Args:
        choices: how many.
        options: of every choice.
        seed: of the weights; the same in every process.
        categorical: how many of the choices are not ordered.
    """

    def __init__(self, choices: int = 6, options: int = 4, seed: int = 0, categorical: int = 0) -> None:
        rng = np.random.default_rng(seed)
        self.space = Space(
            [Choice(f"layer.{at}", tuple(range(options)), ordered=at >= categorical) for at in range(choices)]
        )
        self.gain = rng.uniform(0.5, 2.0, choices)
        self.price = rng.uniform(0.5, 2.0, choices)
        self.pairs = rng.uniform(-0.3, 0.3, max(choices - 1, 0))
        self.bumps = rng.uniform(-0.4, 0.4, (choices, options))

    def cost(self, indices: np.ndarray) -> np.ndarray:
        """Computable, positive, (n,)."""
        return 1 + (indices * self.price).sum(axis=1)

    def error(self, indices: np.ndarray) -> np.ndarray:
        """What must be measured, positive, (n,)."""
        found = 12 - (np.log1p(indices) * self.gain).sum(axis=1)
        for at in range(indices.shape[1]):
            found = found - self.bumps[at][indices[:, at]]
        for at, weight in enumerate(self.pairs):
            found = found + weight * np.abs(indices[:, at] - indices[:, at + 1])
        return np.exp(found / 4)

    def values(self, configs: Sequence[Config]) -> np.ndarray:
        """Error and cost, (n, 2)."""
        indices = self.space.indices(configs)
        return np.stack([self.error(indices), self.cost(indices)], axis=1)

    def problem(self, seed: int = 0, **more: object) -> Problem:
        return Problem(self.space, 2, seed, statistics={"macs": self.cost}, **more)  # type: ignore[arg-type]

    def volume(self, values: np.ndarray) -> float:
        """The share of the box between the smallest and the largest config that ``values`` (n, 2) dominate."""
        ends = self.values([self.space.largest(), self.space.smallest()])
        ideal, nadir = ends.min(axis=0), ends.max(axis=0)
        return hypervolume((values - ideal) / (nadir - ideal), np.ones(2))


def drive(
    proposer: Proposer,
    budget: int,
    measure: Callable[[Sequence[Config]], np.ndarray],
    violation: Callable[[np.ndarray], float] = lambda values: 0.0,
) -> list[Config]:
    """Ask, measure and tell ``budget`` times, one at a time; return what was asked."""
    asked = []
    for _ in range(budget):
        [config] = proposer.ask()
        values = measure([config])[0]
        proposer.tell(config, values.tolist(), violation(values))
        asked.append(config)
    return asked


def reached(searcher: Searcher, table: Table, budget: int, seed: int, **more: object) -> float:
    """The hypervolume after ``budget`` evaluations."""
    asked = drive(searcher.start(table.problem(seed, **more)), budget, table.values)
    return table.volume(table.values(asked))


def evaluations(searcher: Searcher, table: Table, goal: float, seed: int, limit: int, **more: object) -> float:
    """How many evaluations reach the hypervolume ``goal``; infinite where ``limit`` do not."""
    proposer = searcher.start(table.problem(seed, **more))
    asked: list[Config] = []
    for count in range(1, limit + 1):
        asked += drive(proposer, 1, table.values)
        if table.volume(table.values(asked)) >= goal:
            return count
    return math.inf


def draws(space: Space, count: int, seed: int = 0) -> list[Config]:
    """Configs drawn evenly."""
    rng = Random(seed)
    return [space.sample(rng) for _ in range(count)]
