"""LINAS: measure a population, fit light predictors, search on them for long, measure the best; and again.

Every round fits one predictor per objective (ridge regression or a support vector machine, on one-hot features) to
all that is measured, runs an evolutionary search of thousands of predicted evaluations on them, and measures the best
configs that it found and nobody has measured.

The claim of the paper: the front of a conventional search in an eighth of the time of WeakNAS, for ResNet50,
MobileNetV3 and Transformer super-networks. "Concurrent" search in the paper and LINAS in the toolkit (DyNAS-T) are this
same loop; its "full" search is ``first`` as large as one can afford, its "warm-start" search is ``warm``.

Settings are the toolkit's: populations of 50, an inner NSGA-II of 20,000 evaluations (its MobileNetV3 and BERT
setting) with simulated binary crossover (probability 0.9, index 15) and polynomial mutation (0.02, index 20) on
rounded option indices, started at random. As there, objectives are all predicted, also those that could be computed;
``exact`` takes those as they are. Where this implementation differs: the toolkit measures the last population of the
inner search, known members included, here it is the best of all that the inner search has seen and nobody measured;
the toolkit has other inner algorithms for one objective and for three, here NSGA-II serves all; constraints, which it
has none of, are predicted too and enter the inner search; the grid of the support vector machine is coarser.
"""

from __future__ import annotations

from dataclasses import dataclass
from random import Random
from typing import ClassVar

import numpy as np

from ...checks import WrongShapeError
from ...space import Config, Problem
from ...technique import Paper, Proposer, Searcher
from ._arrays import draws, generator, limits, onehot
from ._batches import Batches
from ._integers import evolve
from ._light import Light
from ._standing import best

_ENOUGH = 5
"""Measurements below which the five folds of the predictors cannot be filled."""


@dataclass(frozen=True)
class Linas(Searcher):
    """Lightweight iterative search: predictors fitted each round, an inner NSGA-II on them.

    Attributes:
        population: configs measured per round, and the inner search's population; at least 2.
        inner: predicted evaluations of the inner search per round.
        first: configs measured before the first predictors; ``population`` where ``None``.
        warm: whether the inner search starts from the best measured configs rather than at random.
        exact: whether objectives that can be computed are, rather than predicted.
    """

    population: int = 50
    inner: int = 20_000
    first: int | None = None
    warm: bool = False
    exact: bool = False

    paper: ClassVar[Paper] = Paper(
        "Cummings, Sarah, Sridhar, Szankin, Muñoz, Sundaresan",
        2022,
        "A Hardware-Aware System for Accelerating Deep Neural Network Optimization",
        "2202.12954",
    )

    def __post_init__(self) -> None:
        if self.population < 2 or self.inner < self.population:
            raise WrongShapeError(
                f"population is at least 2 and inner at least population, got {self.population} and {self.inner}"
            )
        if self.first is not None and self.first < _ENOUGH:
            raise WrongShapeError(f"first is at least {_ENOUGH}, the folds of the predictors, got {self.first}")

    def start(self, problem: Problem) -> Proposer:
        """Begin a search; ``problem.seed`` and the history decide every config."""
        return _Rounds(self, problem)


class _Rounds(Batches):
    def __init__(self, settings: Linas, problem: Problem) -> None:
        super().__init__(problem)
        self._settings = settings

    def plan(self, rng: Random, number: int) -> list[Config]:
        indices, values, violation = self.data()
        first = self._settings.first or self._settings.population
        if len(indices) < _ENOUGH or not self.space.choices:
            return self.random(rng, first if number == 0 else self._settings.population)
        predictors = Predictors(self.problem, indices, values, violation, self._settings.exact)
        start = indices[best(values, violation)[: self._settings.population]] if self._settings.warm else None
        seen = inner_search(predictors, self._settings, generator(rng), start)
        order = best(*predictors(seen))
        return self.unseen.of(self.space.configs(seen[order]))[: self._settings.population]


class Predictors:
    """One predictor per objective, and one of the violation where any was measured."""

    def __init__(
        self, problem: Problem, indices: np.ndarray, values: np.ndarray, violation: np.ndarray, exact: bool
    ) -> None:
        features = onehot(problem.space, indices)
        self.problem = problem
        self._counted = dict(problem.exact) if exact else {}
        self._light = {
            objective: Light(features, values[:, objective])
            for objective in range(problem.objectives)
            if objective not in self._counted
        }
        free = limits(problem, indices)
        measured = np.maximum(violation - free, 0)
        self._violation = Light(features, measured) if measured.any() else None

    def __call__(self, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return predicted values (n, objectives) and violations (n,) of option ``indices`` (n, choices)."""
        features = onehot(self.problem.space, indices)
        columns = [
            self._counted[at](indices) if at in self._counted else self._light[at].predict(features)
            for at in range(self.problem.objectives)
        ]
        violation = limits(self.problem, indices)
        if self._violation is not None:
            violation = violation + np.maximum(self._violation.predict(features), 0)
        return np.stack([np.asarray(column, dtype=float) for column in columns], axis=1), violation


def inner_search(
    predictors: Predictors, settings: Linas, rng: np.random.Generator, start: np.ndarray | None
) -> np.ndarray:
    """Return the different option indices (n, choices) that an NSGA-II on ``predictors`` looks at."""
    space = predictors.problem.space
    allowed = space.allowed()
    first = (
        draws(space, settings.population, rng)
        if start is None
        else np.resize(start, (settings.population, len(allowed)))
    )

    def indices(places: np.ndarray) -> np.ndarray:
        return np.stack([options[places[:, at]] for at, options in enumerate(allowed)], axis=1)

    places = np.stack([np.searchsorted(options, first[:, at]) for at, options in enumerate(allowed)], axis=1)
    tops = np.array([len(options) - 1 for options in allowed])
    generations = max(1, settings.inner // settings.population)
    return indices(evolve(lambda rows: predictors(indices(rows)), places, tops, generations, rng))
