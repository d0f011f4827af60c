"""WeakNAS: a row of weak predictors, each needing to be right only where the last one pointed.

Every round fits a predictor to all that is measured, lets it order the whole space, and measures a few configs drawn
evenly from its best hundred; the next predictor knows that neighbourhood better, and so on towards the optimum. The
predictors start bad and need not become good anywhere else.

The claim of the paper: the best architecture of NAS-Bench-201 (CIFAR-10) in 7.5 times fewer samples than the best
earlier predictor, without a strong predictor or a space made for one.

Settings are those of the authors' code for NAS-Bench-201: ten random configs, ten per round from the best hundred, a
perceptron of four layers of 1000 on one-hot features (100 epochs), standardised targets, everything kept as training
data. The paper's two other predictors, a random forest and gradient-boosted trees, are at choice. Where this
implementation differs: the paper has one objective and takes its best; here each objective has its predictor, and the
best are the first predicted fronts, thinned by crowding distance. A space too large to be ordered whole is represented
by even draws, half of them, and mutants of the best measured (the paper samples in its open-domain search, too).
"""

from __future__ import annotations

from dataclasses import dataclass
from random import Random
from typing import Any, ClassVar

import numpy as np

from ...checks import WrongShapeError, unknown
from ...space import Config, Problem
from ...technique import Paper, Proposer, Searcher
from ._arrays import generator, limits, mutated, onehot, pool
from ._batches import Batches
from ._standing import best

_KINDS = ("boosting", "forest", "perceptron")


@dataclass(frozen=True)
class WeakPredictors(Searcher):
    """Progressive weak predictors: each orders the space, and a few of its best are measured for the next.

    Attributes:
        predictor: ``"perceptron"``, ``"forest"`` or ``"boosting"``.
        first: random configs before the first predictor.
        batch: configs measured per round.
        top: size of the best share that a round draws from.
        pool: configs that are ordered: the whole space where it is not larger.
        hidden: layer sizes of the perceptron.
        trees: of a forest or a boosting.
    """

    predictor: str = "perceptron"
    first: int = 10
    batch: int = 10
    top: int = 100
    pool: int = 20_000
    hidden: tuple[int, ...] = (1000, 1000, 1000, 1000)
    trees: int = 1000

    paper: ClassVar[Paper] = Paper(
        "Wu, Dai, Chen, Chen, Liu, Yu, Wang, Liu, Chen, Yuan", 2021, "Stronger NAS with Weaker Predictors", "2102.10490"
    )

    def __post_init__(self) -> None:
        if self.predictor not in _KINDS:
            raise unknown("weak predictor", self.predictor, _KINDS)
        sizes = (self.first, self.batch, self.top, self.pool, self.trees, *self.hidden)
        if min(sizes) < 1 or self.first < 2 or not self.hidden:
            raise WrongShapeError(f"first is at least 2 and all other numbers at least 1, got {self!r}")

    def start(self, problem: Problem) -> Proposer:
        """Begin a search; ``problem.seed`` and the history decide every config."""
        return _Rounds(self, problem)


class _Rounds(Batches):
    def __init__(self, settings: WeakPredictors, problem: Problem) -> None:
        super().__init__(problem)
        self._settings = settings

    def plan(self, rng: Random, number: int) -> list[Config]:
        indices, values, violation = self.data()
        if len(indices) < 2 or not self.space.choices:
            return self.random(rng, self._settings.first if number == 0 else self._settings.batch)
        array_rng = generator(rng)
        candidates = self._candidates(indices, values, violation, array_rng)
        predicted, broken = self._predicted(indices, values, violation, candidates, array_rng)
        order = best(predicted, broken)
        ordered = self.space.configs(candidates[order[: self._settings.top + self._settings.batch + len(self.told)]])
        top = self.unseen.of(ordered[: self._settings.top])
        batch = rng.sample(top, min(self._settings.batch, len(top)))
        return batch + self.unseen.of(ordered[self._settings.top :])[: self._settings.batch - len(batch)]

    def _candidates(
        self, indices: np.ndarray, values: np.ndarray, violation: np.ndarray, rng: np.random.Generator
    ) -> np.ndarray:
        size = self._settings.pool
        if self.space.size <= size:
            return pool(self.space, size, rng)
        parents = indices[best(values, violation)[: self._settings.top]]
        children = mutated(self.space, np.resize(parents, (size // 2, parents.shape[1])), 0.1, rng)
        return np.unique(np.concatenate([pool(self.space, size - len(children), rng), children]), axis=0)

    def _predicted(
        self,
        indices: np.ndarray,
        values: np.ndarray,
        violation: np.ndarray,
        candidates: np.ndarray,
        rng: np.random.Generator,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Predicted values (n, objectives) and violations (n,) of ``candidates``."""
        features, asked = onehot(self.space, indices), onehot(self.space, candidates)
        targets = list(values.T)
        measured = np.maximum(violation - limits(self.problem, indices), 0)
        if measured.any():
            targets.append(measured)
        found = [self._fitted(features, target, asked, int(rng.integers(2**31))) for target in targets]
        broken = limits(self.problem, candidates)
        if measured.any():
            broken = broken + np.maximum(found.pop(), 0)
        return np.stack(found, axis=1), broken

    def _fitted(self, features: np.ndarray, target: np.ndarray, asked: np.ndarray, seed: int) -> np.ndarray:
        middle, spread = target.mean(), target.std() or 1.0
        model = _model(self._settings, seed).fit(features, (target - middle) / spread)
        return np.asarray(model.predict(asked)) * spread + middle


def _model(settings: WeakPredictors, seed: int) -> Any:
    """A predictor that has learnt nothing, of scikit-learn."""
    if settings.predictor == "perceptron":
        return _Perceptron(settings.hidden, seed)
    from sklearn.ensemble import GradientBoostingRegressor, RandomForestRegressor

    if settings.predictor == "forest":
        return RandomForestRegressor(n_estimators=settings.trees, max_depth=10, random_state=seed)
    return GradientBoostingRegressor(n_estimators=settings.trees, random_state=seed)


class _Perceptron:
    """scikit-learn's, which warns at the end of its published number of epochs that it could go on: it shall not."""

    def __init__(self, hidden: tuple[int, ...], seed: int) -> None:
        from sklearn.neural_network import MLPRegressor

        self._model = MLPRegressor(hidden_layer_sizes=hidden, max_iter=100, random_state=seed)

    def fit(self, features: np.ndarray, target: np.ndarray) -> _Perceptron:
        import warnings

        from sklearn.exceptions import ConvergenceWarning

        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            self._model.fit(features, target)
        return self

    def predict(self, features: np.ndarray) -> np.ndarray:
        return np.asarray(self._model.predict(features))
