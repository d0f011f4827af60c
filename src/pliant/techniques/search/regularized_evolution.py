"""Regularised evolution: a steady-state evolution in which the oldest dies, not the worst.

The population is the last ``population`` measured configs. Again and again, some of it is drawn, the best of those is
copied with one choice changed, and the copy is measured and joins, while the oldest leaves: to stay, a config must be
found again by its children, so one that was good by luck is forgotten.

The claim of the paper: the first evolved image classifier to surpass hand-designs (AmoebaNet-A, 83.9 % on ImageNet), at
equal compute faster than reinforcement learning early in the search.

Settings are the paper's: 100 alive, 25 drawn per cycle, one mutation per child, the first 100 random. Where this
implementation differs: the paper maximises one accuracy; of several objectives the best of a draw is the one of lowest
non-dominated rank within it, then of the largest crowding distance, and what breaks constraints stands behind. A child
that is known is mutated again, as a measurement of it would tell nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import ClassVar

from ...checks import WrongShapeError
from ...space import Config, Problem
from ...technique import Paper, Proposer, Searcher
from ._batches import Batches
from ._evolution import survivors
from ._standing import standing

_TRIES = 20
_ONE = 1e-12
"""A rate so low that a mutation changes the one choice that it must."""


@dataclass(frozen=True)
class RegularizedEvolution(Searcher):
    """Aging evolution: the best of a draw has a child, the oldest dies.

    Attributes:
        population: configs alive, and random ones at the start; at least 2.
        sample: configs drawn per cycle, of which the best becomes a parent; at most ``population``.
    """

    population: int = 100
    sample: int = 25

    paper: ClassVar[Paper] = Paper(
        "Real, Aggarwal, Huang, Le",
        2019,
        "Regularized Evolution for Image Classifier Architecture Search",
        "1802.01548",
    )

    def __post_init__(self) -> None:
        if self.population < 2 or not 1 <= self.sample <= self.population:
            raise WrongShapeError(
                f"population is at least 2 and sample from 1 to population, got {self.population} and {self.sample}"
            )

    def start(self, problem: Problem) -> Proposer:
        """Begin a search; ``problem.seed`` and the history decide every config."""
        return _Cycles(self, problem)


class _Cycles(Batches):
    def __init__(self, settings: RegularizedEvolution, problem: Problem) -> None:
        super().__init__(problem)
        self._settings = settings
        self.alive: list[Config] = []

    def tell(self, config: Config, values: Sequence[float], violation: float = 0.0) -> None:
        super().tell(config, values, violation)
        if not self.told[config].failed and config not in self.alive:
            self.alive = [*self.alive, config][-self._settings.population :]

    def plan(self, rng: Random, number: int) -> list[Config]:
        if len(self.told) + len(self.pending) < self._settings.population or not self.alive:
            return self.random(rng, 1)
        drawn = [rng.choice(self.alive) for _ in range(self._settings.sample)]
        [parent] = survivors([self.told[config] for config in drawn], 1, standing)
        child = parent.config
        for _ in range(_TRIES):
            child = self.space.mutate(child, rng, _ONE)
            if child in self.unseen:
                return [child]
        return []
