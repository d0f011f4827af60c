"""NSGA-II: an evolutionary search for the whole front, with elitism and without weights to tune.

A generation is bred from the survivors of all before it: parents win a binary tournament by rank (how many fronts lie
before theirs) and, within a rank, by crowding distance (how lonely they are); children come of uniform crossover and
per-choice mutation. Survivors are the best ranks, the last of them thinned by crowding distance. Constraints enter by
constrained domination: feasible beats infeasible, less violation beats more.

The claim of the paper: a better spread of solutions and better convergence than the elitist peers of its time, at
O(objectives x population^2) per generation.

Where this implementation differs: choices are discrete, so crossover and mutation are those of the space rather than
simulated binary ones; the first population holds the largest and the smallest config; a child that is known already is
mutated again, and in the end replaced by an unseen config, because a measurement costs far more than a draw; a failed
config ranks behind all others. Sorting and crowding are pymoo's (Blank and Deb, 2020, arXiv 2002.04504).
Known to be suboptimal: it learns nothing about which choices matter, so a model-based searcher needs fewer trials.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import ClassVar

import numpy as np

from ...checks import WrongShapeError
from ...space import Config, Problem
from ...technique import Paper, Proposer, Searcher
from ._unseen import Unseen

_TRIES = 20


@dataclass(frozen=True)
class Nsga2(Searcher):
    """Non-dominated sorting genetic algorithm.

    Attributes:
        population: configs per generation, and survivors; at least 2.
        crossover: probability that a child mixes two parents rather than copying the first.
        mutation: probability per choice of another option; one over the number of choices where ``None``.
    """

    population: int = 20
    crossover: float = 0.9
    mutation: float | None = None

    paper: ClassVar[Paper] = Paper(
        "Deb, Pratap, Agarwal, Meyarivan", 2002, "A Fast and Elitist Multiobjective Genetic Algorithm: NSGA-II"
    )

    def __post_init__(self) -> None:
        if self.population < 2:
            raise WrongShapeError(f"population is at least 2, got {self.population}")
        for name, value in (("crossover", self.crossover), ("mutation", self.mutation)):
            if value is not None and not 0 <= value <= 1:
                raise WrongShapeError(f"{name} is a probability from 0 to 1, got {value}")

    def start(self, problem: Problem) -> Proposer:
        """Begin a search; ``problem.seed`` and the history decide every config."""
        return _Evolution(self, problem)


@dataclass(frozen=True)
class _Individual:
    config: Config
    values: tuple[float, ...]
    violation: float


class _Evolution:
    """A running search: what it asks depends on the seed and on what it was told in which order, and nothing else."""

    def __init__(self, settings: Nsga2, problem: Problem) -> None:
        self._settings = settings
        self._space = problem.space
        self._seed = problem.seed
        self._generation = 0
        self._queue: list[Config] = []
        self._parents: list[_Individual] = []
        self._children: list[_Individual] = []
        self._unseen = Unseen(problem.space)

    def ask(self, n: int = 1) -> list[Config]:
        return [self._next() for _ in range(n)]

    def _next(self) -> Config:
        if not self._queue:
            rng = Random(f"{self._seed}:{self._generation}")
            self._generation += 1
            pool = self._parents + self._children
            self._parents, self._children = survivors(pool, self._settings.population), []
            self._queue = self._breed(rng) if len(self._parents) > 1 else self._found(rng)
        return self._queue.pop(0)

    def tell(self, config: Config, values: Sequence[float], violation: float = 0.0) -> None:
        self._unseen.add(config)
        individual = _Individual(config, tuple(values), violation)
        if all(known.config != config for known in self._parents + self._children):
            self._children.append(individual)

    def _found(self, rng: Random) -> list[Config]:
        """The first generation."""
        configs = dict.fromkeys((self._space.largest(), self._space.smallest()))
        while len(configs) < min(self._settings.population, self._space.size):
            configs[self._space.sample(rng)] = None
        return list(configs)

    def _breed(self, rng: Random) -> list[Config]:
        """A generation of children, none known and none twice while there are such."""
        rank, crowding = standing(self._parents)
        bred: dict[Config, None] = {}
        for _ in range(self._settings.population):
            child = self._child(rng, rank, crowding)
            for _ in range(_TRIES):
                if child in self._unseen and child not in bred:
                    break
                child = self._space.mutate(child, rng, self._rate)
            else:
                child = self._unseen.draw(rng) or child
            bred[child] = None
        return list(bred)

    @property
    def _rate(self) -> float:
        given = self._settings.mutation
        return 1 / max(1, len(self._space.choices)) if given is None else max(given, 1e-9)

    def _child(self, rng: Random, rank: np.ndarray, crowding: np.ndarray) -> Config:
        def winner() -> Config:
            first, second = (rng.randrange(len(self._parents)) for _ in range(2))
            better = min(first, second, key=lambda index: (rank[index], -crowding[index]))
            return self._parents[better].config

        child = winner()
        if rng.random() < self._settings.crossover:
            child = self._space.crossover(child, winner(), rng)
        return self._space.mutate(child, rng, self._rate) if self._settings.mutation != 0 else child


def survivors(pool: Sequence[_Individual], count: int) -> list[_Individual]:
    """Return the best ``count`` of ``pool``: by rank, then by crowding distance, then the earlier."""
    rank, crowding = standing(pool)
    order = sorted(range(len(pool)), key=lambda index: (rank[index], -crowding[index], index))
    return [pool[index] for index in order[:count]]


def standing(pool: Sequence[_Individual]) -> tuple[np.ndarray, np.ndarray]:
    """Return rank (0 is the first front) and crowding distance within the rank, both (n,), of ``pool``.

    Infeasible individuals rank behind the feasible, by violation; equals share a rank. Their crowding is zero.
    """
    rank, crowding = np.zeros(len(pool), dtype=int), np.zeros(len(pool))
    feasible = np.array([index for index, each in enumerate(pool) if each.violation == 0], dtype=int)
    last = -1
    if len(feasible):
        from pymoo.operators.survival.rank_and_crowding.metrics import calc_crowding_distance
        from pymoo.util.nds.non_dominated_sorting import NonDominatedSorting

        points = np.array([pool[index].values for index in feasible], dtype=float)
        for last, front in enumerate(NonDominatedSorting().do(points)):
            rank[feasible[front]] = last
            crowding[feasible[front]] = calc_crowding_distance(points[front]) if len(front) > 2 else np.inf
    levels = sorted({each.violation for each in pool if each.violation != 0})
    for index, each in enumerate(pool):
        if each.violation != 0:
            rank[index] = last + 1 + levels.index(each.violation)
    return rank, crowding
