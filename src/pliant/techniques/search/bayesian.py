"""Bayesian optimisation of the front: a model of what is measured, costs taken exactly, the largest expected gain.

A Gaussian process per measured objective predicts it for configs that were not measured. Asked for is the config with
the greatest expected hypervolume improvement, found by an evolutionary search that starts from the front and from the
best candidates of the step before. What makes it need few measurements, where costs are known exactly:

- positive objectives, such as an error, are modelled by their logarithm;
- configs are seen in canonical form: equivalent ones as one, choices inside absent parts masked, with means over the
  stages and over the network beside the options themselves;
- the logarithms of costs (MACs, parameters) are features, so that a smooth trend explains most of an error;
- an objective that can be computed is computed, and enters the improvement exactly, in closed form;
- the first configs are the largest, the smallest, and some spread over the costs, as far as constraints allow.

The claim of the paper: expected hypervolume improvement can be computed exactly and quickly by cutting what the front
leaves undominated into boxes, for two objectives in O(n log n).

Where this implementation differs: spaces are discrete and the improvement is maximised by evolution, not by gradients;
beliefs are normal or log-normal, or exact; a config in flight counts as measured at its prediction; measured values
are smoothed by the model, as far as it takes them for noisy; the chance that a config keeps the constraints on measured
values is predicted by regression on whether others kept them, and multiplies the improvement.
Known to be suboptimal: time grows with the cube of the number of measurements, so beyond some hundreds only the best
and the latest are modelled; from four objectives on, the front is thinned before it is cut.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from random import Random
from typing import ClassVar

import numpy as np

from ...checks import WrongShapeError
from ...space import Config, Problem
from ...technique import Paper, Proposer, Searcher
from ._arrays import generator, limits
from ._batches import Batches
from ._beliefs import Beliefs
from ._features import Features
from ._inner import Inner, keys

_BOLD = 3.0


@dataclass(frozen=True)
class Bayesian(Searcher):
    """Bayesian optimisation by expected hypervolume improvement, with exact costs.

    Attributes:
        spread: configs spread over the costs that are measured after the largest and the smallest, before any model.
        candidates: how many configs are scored for each that is asked for.
        exploration: scales how unsure the models are taken to be; above 1 the unknown draws more, below 1 less.
        bold: every so many configs, one is sought with three times the exploration; 0 for none. The models take
            interactions that they have not met for unlikely, and so are too sure at times.
        log: model positive objectives by their logarithm.
        statistics: use costs as features.
    """

    spread: int = 2
    candidates: int = 1000
    exploration: float = 0.7
    bold: int = 3
    log: bool = True
    statistics: bool = True

    paper: ClassVar[Paper] = Paper(
        "Yang, Emmerich, Deutz, Bäck",
        2019,
        "Efficient Computation of Expected Hypervolume Improvement Using Box Decomposition Algorithms",
        "1904.12672",
    )

    def __post_init__(self) -> None:
        if self.spread < 0:
            raise WrongShapeError(f"spread is at least 0, got {self.spread}")
        if self.bold < 0:
            raise WrongShapeError(f"bold is at least 0, got {self.bold}")
        if self.candidates < 1:
            raise WrongShapeError(f"candidates is at least 1, got {self.candidates}")
        if not self.exploration > 0:
            raise WrongShapeError(f"exploration is above 0, got {self.exploration}")

    def start(self, problem: Problem) -> Proposer:
        """Begin a search; ``problem.seed`` and the history decide every config."""
        return _Bayesian(self, problem)


class _Bayesian(Batches):
    """A running search. Rows are the option indices of canonical configs."""

    def __init__(self, settings: Bayesian, problem: Problem) -> None:
        super().__init__(problem)
        self._settings = settings
        self._cached: dict[Config, np.ndarray] = {}
        self._inner = Inner(problem, settings.candidates)
        sample = self._inner.spread(256, np.random.default_rng(0))
        ends = self._rows([problem.space.smallest(), problem.space.largest()])
        self._sample = np.unique(np.concatenate([sample, ends]), axis=0)
        self._features = Features(problem, self._sample, settings.statistics)
        self._beliefs = Beliefs(problem, self._features, settings.log)

    def plan(self, rng: Random, number: int) -> list[Config]:
        first = self._first(generator(rng)) if number == 0 else []
        if first:
            return first
        rows, values, violations = self._known()
        good = np.isfinite(values).all(axis=1) & np.isfinite(violations)
        pending = self._rows(self.pending)
        known = {*keys(rows), *keys(pending)}
        numbers = generator(rng)
        if good.sum() < 2:  # nothing to learn from yet
            drawn = self._inner.spread(64, numbers)
            left = [at for at, key in enumerate(keys(drawn)) if key not in known]
            return self.space.configs(drawn[left[:1]])
        self._beliefs.learn(rows, values, violations, pending)
        parents = self._beliefs.parents

        best = None
        bold = self._settings.bold and number % self._settings.bold == self._settings.bold - 1
        for boldness in (_BOLD if bold else 1.0, 4.0, np.inf):  # where nothing promises a gain, where least is known
            score = partial(self._beliefs.gain, exploration=self._settings.exploration * boldness)
            best = self._inner.best(score, parents, known, numbers)
            if best is None or score(best[None])[0] > 0:
                break
        return [] if best is None else self.space.configs(best[None])

    def _rows(self, configs: Sequence[Config]) -> np.ndarray:
        new = [config for config in configs if config not in self._cached]
        if new:
            rows = self.space.indices(new)
            rows = rows if self.problem.canonical is None else self.problem.canonical(rows)
            self._cached.update(zip(new, rows, strict=True))
        return np.array([self._cached[config] for config in configs], dtype=np.int64).reshape(
            len(configs), len(self.space.choices)
        )

    def _known(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return rows, values and violations of all that was told; the last word on each network."""
        told = list(self.told.values())
        rows = self._rows([each.config for each in told])
        last = {key: at for at, key in enumerate(keys(rows))}
        kept = sorted(last.values())
        values = np.array([each.values for each in told], dtype=float).reshape(len(told), self.problem.objectives)
        violations = np.array([each.violation for each in told], dtype=float)
        return rows[kept], values[kept], violations[kept]

    def _first(self, rng: np.random.Generator) -> list[Config]:
        """Return the largest, the smallest, and configs at even steps of the logarithm of the cost between them.

        What is known to break a constraint is left out: its measurement would be wasted.
        """
        space, wanted = self.space, self._settings.spread
        ends = [space.largest(), space.smallest()]
        allowed = limits(self.problem, space.indices(ends)) <= 0
        rows = self._sample[limits(self.problem, self._sample) <= 0]
        kept = [end for end, fine in zip(ends, allowed, strict=True) if fine]
        wanted += len(ends) - len(kept)
        if not wanted or not len(rows):
            return kept or ends
        cost = self._features.cost(rows)
        low, high = cost.min(), cost.max()
        picked = []
        for step in range(wanted):
            target = low + (high - low) * (step + rng.random()) / wanted
            nearest = np.argsort(np.abs(cost - target), kind="stable")[: max(1, len(rows) // (4 * wanted))]
            picked.append(rows[rng.choice(nearest)])
        return [*kept, *space.configs(np.array(picked))]
