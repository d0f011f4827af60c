"""An evolution with elitism, as its published variants share it: they differ in who stands before whom."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from random import Random
from typing import TypeAlias

import numpy as np

from ...checks import WrongShapeError
from ...space import Config, Problem
from ._batches import Batches, Measured

Standing: TypeAlias = Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]
"""Values (n, objectives) and violations (n,) to rank (n,), less is better, and distance (n,), more is better."""

_TRIES = 20


def check(population: int, **probabilities: float | None) -> None:
    """Refuse settings of an evolution that make no sense.

    Raises:
        WrongShapeError: the population is below 2, or a probability is not one.
    """
    if population < 2:
        raise WrongShapeError(f"population is at least 2, got {population}")
    for name, value in probabilities.items():
        if value is not None and not 0 <= value <= 1:
            raise WrongShapeError(f"{name} is a probability from 0 to 1, got {value}")


def survivors(pool: Sequence[Measured], count: int, standing: Standing) -> list[Measured]:
    """Return the best ``count`` of ``pool``: by rank, then by distance, then the earlier."""
    rank, distance = judged(pool, standing)
    order = sorted(range(len(pool)), key=lambda index: (rank[index], -distance[index], index))
    return [pool[index] for index in order[:count]]


def judged(pool: Sequence[Measured], standing: Standing) -> tuple[np.ndarray, np.ndarray]:
    """Return the ``standing`` of ``pool``."""
    values = np.array([each.values for each in pool], dtype=float).reshape(len(pool), -1)
    return standing(values, np.array([each.violation for each in pool], dtype=float))


class Evolution(Batches):
    """A running evolution: a generation is bred from the survivors of all before it.

    Args:
        problem: what is searched.
        standing: decides who survives and who wins a tournament.
        population: survivors, and children per generation.
        crossover: probability that a child mixes two parents rather than copying one.
        mutation: probability per choice of another option; one over the number of choices where ``None``.
    """

    def __init__(
        self, problem: Problem, standing: Standing, population: int, crossover: float, mutation: float | None
    ) -> None:
        super().__init__(problem)
        self._standing = standing
        self._population = population
        self._crossover = crossover
        self._mutation = mutation
        self._parents: list[Config] = []
        self._children: dict[Config, None] = {}

    def tell(self, config: Config, values: Sequence[float], violation: float = 0.0) -> None:
        super().tell(config, values, violation)
        if config not in self._parents:
            self._children[config] = None

    def plan(self, rng: Random, number: int) -> list[Config]:
        pool = [self.told[config] for config in (*self._parents, *self._children)]
        alive = survivors(pool, self._population, self._standing) if pool else []
        self._parents, self._children = [each.config for each in alive], {}
        return self._breed(rng, alive) if len(alive) > 1 else self.found(rng)

    def found(self, rng: Random) -> list[Config]:
        """Return the first generation: the largest config, the smallest, and even draws."""
        configs = dict.fromkeys((self.space.largest(), self.space.smallest()))
        while len(configs) < min(self._population, self.space.size):
            configs[self.space.sample(rng)] = None
        return list(configs)

    def _breed(self, rng: Random, parents: Sequence[Measured]) -> list[Config]:
        """A generation of children, none known and none twice while there are such."""
        rank, distance = judged(parents, self._standing)
        bred: dict[Config, None] = {}
        for _ in range(self._population):
            child = self._child(rng, parents, rank, distance)
            for _ in range(_TRIES):
                if child in self.unseen and child not in bred:
                    break
                child = self.space.mutate(child, rng, self._rate)
            else:
                child = self.unseen.draw(rng) or child
            bred[child] = None
        return list(bred)

    @property
    def _rate(self) -> float:
        return 1 / max(1, len(self.space.choices)) if self._mutation is None else max(self._mutation, 1e-9)

    def _child(self, rng: Random, parents: Sequence[Measured], rank: np.ndarray, distance: np.ndarray) -> Config:
        def winner() -> Config:
            first, second = (rng.randrange(len(parents)) for _ in range(2))
            return parents[min(first, second, key=lambda index: (rank[index], -distance[index]))].config

        child = winner()
        if rng.random() < self._crossover:
            child = self.space.crossover(child, winner(), rng)
        return self.space.mutate(child, rng, self._rate) if self._mutation != 0 else child
