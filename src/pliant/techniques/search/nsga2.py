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
config ranks behind all others. Crowding is pymoo's (Blank and Deb, 2020, arXiv 2002.04504), sorting is moocore's.
Known to be suboptimal: it learns nothing about which choices matter, so a model-based searcher needs fewer trials.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ...space import Problem
from ...technique import Paper, Proposer, Searcher
from ._evolution import Evolution, check
from ._standing import standing


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
        check(self.population, crossover=self.crossover, mutation=self.mutation)

    def start(self, problem: Problem) -> Proposer:
        """Begin a search; ``problem.seed`` and the history decide every config."""
        return Evolution(problem, standing, self.population, self.crossover, self.mutation)
