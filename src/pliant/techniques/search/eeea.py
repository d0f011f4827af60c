"""EEEA-Net: an evolution whose first population holds nothing that is too large to be wanted.

A candidate of the first population whose parameters exceed a threshold is rejected before it costs anything, and drawn
again ("early exit"); from there on it is a multi-objective evolution by non-dominated sorting. What is bred may grow
beyond the threshold.

The claim of the paper: a search of half a GPU-day on CIFAR-10 (NSGA-Net: 4) that finds networks of 2.46 % error.

Where this implementation differs: the threshold is on any free statistic or exact objective, by default half of the
largest config's; the genome is the space's, not a cell's; crossover, mutation, tournaments and sorting are those of our
NSGA-II. Where even draws hardly ever pass, draws that lean to small options take their place. Where there is no such
cost, nothing is rejected.
"""

from __future__ import annotations

from dataclasses import dataclass
from random import Random
from typing import ClassVar

import numpy as np

from ...checks import WrongShapeError, unknown
from ...space import Config, Count, Problem
from ...technique import Paper, Proposer, Searcher
from ._arrays import draws, generator, leaning
from ._evolution import Evolution, check
from ._standing import standing

_DRAWS = 2000


@dataclass(frozen=True)
class Eeea(Searcher):
    """Early-exit evolution: what is too large is rejected from the first population, unmeasured.

    Attributes:
        population: configs per generation, and survivors; at least 2.
        crossover: probability that a child mixes two parents rather than copying one.
        mutation: probability per choice of another option; one over the number of choices where ``None``.
        statistic: name of the statistic that decides; the first, or the first exact objective, where ``None``.
        limit: what it may be in the first population; half of the largest config's where ``None``.
    """

    population: int = 20
    crossover: float = 0.9
    mutation: float | None = None
    statistic: str | None = None
    limit: float | None = None

    paper: ClassVar[Paper] = Paper(
        "Termritthikun, Jamtsho, Ieamsaard, Muneesawang, Lee",
        2021,
        "EEEA-Net: An Early Exit Evolutionary Neural Architecture Search",
        "2108.06156",
    )

    def __post_init__(self) -> None:
        check(self.population, crossover=self.crossover, mutation=self.mutation)

    def start(self, problem: Problem) -> Proposer:
        """Begin a search; ``problem.seed`` and the history decide every config.

        Raises:
            UnknownNameError: the problem has no such statistic; offers the nearest.
            WrongShapeError: even the smallest config exceeds the limit.
        """
        if self.statistic is not None and self.statistic not in problem.statistics:
            raise unknown("statistic", self.statistic, problem.statistics)
        named = [problem.statistics[self.statistic]] if self.statistic is not None else []
        costs = [*named, *problem.statistics.values(), *problem.exact.values()]
        if not costs:
            return Evolution(problem, standing, self.population, self.crossover, self.mutation)
        ends = problem.space.indices([problem.space.smallest(), problem.space.largest()])
        smallest, largest = (float(value) for value in costs[0](ends))
        limit = max(largest / 2, smallest) if self.limit is None else self.limit
        if smallest > limit:
            raise WrongShapeError(f"limit is {limit}, but the smallest config has {smallest}; raise it")
        return _EarlyExit(self, problem, costs[0], limit)


class _EarlyExit(Evolution):
    def __init__(self, settings: Eeea, problem: Problem, cost: Count, limit: float) -> None:
        super().__init__(problem, standing, settings.population, settings.crossover, settings.mutation)
        self._cost = cost
        self._limit = limit

    def found(self, rng: Random) -> list[Config]:
        """Return a first generation within the limit."""
        array_rng = generator(rng)
        wanted = min(self._population, self.space.size)
        configs: dict[Config, None] = {self.space.smallest(): None}
        for draw in (draws, leaning):
            indices = draw(self.space, _DRAWS, array_rng)
            passed = indices[np.asarray(self._cost(indices)) <= self._limit]
            for config in self.unseen.of(self.space.configs(passed)):
                if len(configs) < wanted:
                    configs[config] = None
        return list(configs)
