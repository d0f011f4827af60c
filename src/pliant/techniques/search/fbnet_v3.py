"""FBNetV3's search (NARS): a predictor that first learns what is free, then what was measured, and a search per budget.

A perceptron is pretrained to tell free statistics of a config, such as its MACs, from its encoding, which teaches it
what the choices do to size. With a new last layer it is then fitted to what is measured. First, configs come from a
quasi-random pool that keeps the constraints, the best of it by the predictor in each of some rounds; after these, from
an evolutionary search on the predictor, one for every budget.

The claim of the paper: networks that match EfficientNet and ResNeSt on ImageNet with up to 2 and 7.1 times fewer FLOPs;
pretraining cuts the predictor's error most where few labels are known.

Choices of a training recipe are choices of the space like all others, so architecture and recipe are searched jointly.
As published: one-hot encoding, Huber's loss, the pretrained layers kept fixed for the first third of the fitting,
quasi-random (Sobol) samples, evolution by mutation and crossover until the best score stops rising. Where this
implementation differs: statistics enter by their logarithms; without any there is no pretraining; budgets are not
named by the user but spread over what the other objectives range over, so that the whole front is searched, and a
config asked for is the best unseen one of its budget; measured constraints are predicted too.
"""

from __future__ import annotations

from dataclasses import dataclass
from random import Random
from typing import ClassVar

import numpy as np

from ...checks import WrongShapeError
from ...space import Config, Problem, Space
from ...technique import Paper, Proposer, Searcher
from ._arrays import draws, generator, limits, mutated, onehot
from ._batches import Batches
from ._perceptron import Perceptron
from ._standing import best

_GENERATIONS = 40
_PATIENCE = 5
_PENALTY = 1e6


@dataclass(frozen=True)
class FbnetV3(Searcher):
    """Predictor pretrained on free statistics, constrained iterative sampling, evolution per budget.

    Attributes:
        first: quasi-random configs before the first prediction; at least 2.
        batch: configs measured per round, which is also the number of budgets.
        rounds: of sampling from the pool, before the evolution.
        candidates: quasi-random configs in the pool, and those that pretraining learns from.
        hidden: sizes of the perceptron's layers.
        epochs: of pretraining, and of fitting.
        pretrained: whether to pretrain.
    """

    first: int = 20
    batch: int = 10
    rounds: int = 4
    candidates: int = 2000
    hidden: tuple[int, ...] = (100, 100)
    epochs: int = 60
    pretrained: bool = True

    paper: ClassVar[Paper] = Paper(
        "Dai, Wan, Zhang, Wu, He, Wei, Chen, Tian, Yu, Vajda, Gonzalez",
        2020,
        "FBNetV3: Joint Architecture-Recipe Search using Predictor Pretraining",
        "2006.02049",
    )

    def __post_init__(self) -> None:
        if self.first < 2 or min(self.batch, self.candidates, self.epochs, *self.hidden) < 1 or self.rounds < 0:
            raise WrongShapeError(f"first is at least 2, rounds 0, and all other numbers 1, got {self!r}")
        if not self.hidden:
            raise WrongShapeError("hidden needs at least one layer: its output is what pretraining teaches")

    def start(self, problem: Problem) -> Proposer:
        """Begin a search; ``problem.seed`` and the history decide every config."""
        return _Rounds(self, problem)


def quasi_random(space: Space, count: int, rng: np.random.Generator) -> np.ndarray:
    """Return ``count`` option indices (count, choices) from a scrambled Sobol sequence."""
    from scipy.stats import qmc

    allowed = space.allowed()
    if not allowed:
        return np.zeros((count, 0), dtype=np.int64)
    points = qmc.Sobol(len(allowed), seed=rng).random_base2(max(0, (count - 1).bit_length()))[:count]
    columns = [options[(points[:, at] * len(options)).astype(int)] for at, options in enumerate(allowed)]
    return np.stack(columns, axis=1)


class Predictor:
    """What is known and what is predicted of configs: values of all objectives and the violation of constraints.

    Args:
        settings: sizes and epochs.
        problem: gives free statistics, and objectives that need no prediction.
        rng: decides weights, and what pretraining learns from.
    """

    def __init__(self, settings: FbnetV3, problem: Problem, rng: np.random.Generator) -> None:
        self._settings = settings
        self._problem = problem
        self._rng = rng
        width = sum(len(choice.options) for choice in problem.space.choices)
        self._learnt = [at for at in range(problem.objectives) if at not in problem.exact]
        self._encoder = Perceptron((width, *settings.hidden, 1), rng)
        free = [*problem.statistics.values(), *problem.exact.values()]
        if settings.pretrained and free and problem.space.choices:
            indices = draws(problem.space, settings.candidates, rng)
            targets = _standard(np.column_stack([_logarithm(count(indices)) for count in free]))[0]
            self._encoder = Perceptron((width, *settings.hidden, len(free)), rng)
            self._encoder.fit(onehot(problem.space, indices), targets, settings.epochs, rng)

    def fit(self, indices: np.ndarray, values: np.ndarray, violation: np.ndarray) -> None:
        """Learn from what was measured: (n, choices), (n, objectives) and (n,)."""
        measured = np.maximum(violation - limits(self._problem, indices), 0)
        self._constrained = bool(measured.any())
        targets = np.column_stack([values[:, self._learnt], *([measured] if self._constrained else [])])
        targets, self._middle, self._spread = _standard(targets)
        self._net = self._encoder.reheaded(targets.shape[1], self._rng)
        features, epochs = onehot(self._problem.space, indices), self._settings.epochs
        if targets.shape[1]:
            self._net.fit(features, targets, epochs, self._rng, frozen=len(self._settings.hidden))
            self._net.fit(features, targets, 2 * epochs, self._rng)

    def __call__(self, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return values (n, objectives) and violations (n,) of option ``indices`` (n, choices)."""
        found = self._net.predict(onehot(self._problem.space, indices)) * self._spread + self._middle
        broken = limits(self._problem, indices)
        if self._constrained:
            broken = broken + np.maximum(found[:, -1], 0)
        exact = self._problem.exact
        columns = [
            np.asarray(exact[at](indices), dtype=float) if at in exact else found[:, self._learnt.index(at)]
            for at in range(self._problem.objectives)
        ]
        return np.stack(columns, axis=1), broken


def _logarithm(values: np.ndarray) -> np.ndarray:
    return np.log(np.maximum(np.asarray(values, dtype=float), np.finfo(float).tiny))


def _standard(values: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    middle, spread = values.mean(axis=0), values.std(axis=0)
    spread = np.where(spread > 0, spread, 1.0)
    return (values - middle) / spread, middle, spread


class _Rounds(Batches):
    def __init__(self, settings: FbnetV3, problem: Problem) -> None:
        super().__init__(problem)
        self._settings = settings
        rng = generator(Random(f"{problem.seed}:predictor"))
        self._pool = self._allowed(quasi_random(problem.space, settings.candidates, rng))
        self._predictor = Predictor(settings, problem, rng)

    def _allowed(self, indices: np.ndarray) -> np.ndarray:
        """Those of ``indices`` (n, choices) that keep the constraints that need no measurement, if any do."""
        kept = indices[limits(self.problem, indices) == 0]
        return kept if len(kept) else indices

    def plan(self, rng: Random, number: int) -> list[Config]:
        indices, values, violation = self.data()
        if number == 0 or len(indices) < 2 or not self.space.choices:
            count = self._settings.first if number == 0 else self._settings.batch
            return self.unseen.of(self.space.configs(self._pool[: count + len(self.told) + len(self.pending)]))[:count]
        self._predictor.fit(indices, values, violation)
        if number <= self._settings.rounds:
            order = best(*self._predictor(self._pool))
            count = self._settings.batch + len(self.told) + len(self.pending)
            return self.unseen.of(self.space.configs(self._pool[order[:count]]))[: self._settings.batch]
        return self._evolved(indices[best(values, violation)], generator(rng))

    def _evolved(self, parents: np.ndarray, rng: np.random.Generator) -> list[Config]:
        """The best unseen config of every budget."""
        start = np.concatenate([parents[:50], self._pool[rng.permutation(len(self._pool))[:50]]])
        batch: list[Config] = []
        for objective, budget in self._budgets(start):
            known = {*batch}
            seen, score = self.search(start, objective, budget, rng)
            order = seen[np.argsort(score, kind="stable")][: 20 + len(self.told) + len(self.pending)]
            new = [config for config in self.unseen.of(self.space.configs(self._allowed(order))) if config not in known]
            batch += new[:1]
        return batch

    def _budgets(self, start: np.ndarray) -> list[tuple[int, float]]:
        """Objectives beside the first that is predicted, each with levels that it shall not exceed."""
        first = self.primary
        others = [at for at in range(self.problem.objectives) if at != first]
        if not others:
            return [(first, np.inf)] * self._settings.batch
        values = self._predictor(start)[0]
        found = []
        for place in range(self._settings.batch):
            objective = others[place % len(others)]
            share = (place // len(others) + 1) / -(-self._settings.batch // len(others))
            low, high = values[:, objective].min(), values[:, objective].max()
            found.append((objective, float(low + share**2 * (high - low))))  # denser where networks are small
        return found

    @property
    def primary(self) -> int:
        """The objective that each budget's search minimises: the first that cannot be computed."""
        return next((at for at in range(self.problem.objectives) if at not in self.problem.exact), 0)

    def search(
        self, start: np.ndarray, objective: int, budget: float, rng: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray]:
        """Evolve ``start`` (n, choices) on the predictor; return all rows seen (m, choices) and scores (m,)."""

        def scored(indices: np.ndarray) -> np.ndarray:
            values, broken = self._predictor(indices)
            over = np.maximum(values[:, objective] - budget, 0) if np.isfinite(budget) else 0.0
            return np.asarray(values[:, self.primary] + _PENALTY * (broken + over))

        alive, score = start, scored(start)
        seen, scores = [alive], [score]
        rate, waited = 1 / max(1, alive.shape[1]), 0
        for _ in range(_GENERATIONS):
            children = mutated(self.space, alive, rate, rng)
            fresh = scored(children)
            seen.append(children)
            scores.append(fresh)
            waited = 0 if fresh.min() < score.min() else waited + 1
            if waited >= _PATIENCE:
                break
            alive, score = np.concatenate([alive, children]), np.concatenate([score, fresh])
            kept = np.argsort(score, kind="stable")[: len(start)]
            alive, score = alive[kept], score[kept]
        rows, first = np.unique(np.concatenate(seen), axis=0, return_index=True)
        return rows, np.concatenate(scores)[first]
