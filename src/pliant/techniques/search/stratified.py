"""Stratified sampling: as many configs from every range of cost, from the smallest networks to the largest.

Configs drawn evenly have middling costs, nearly all of them: sums of many choices do. Where a cost can be computed for
free, the range of its logarithm is cut into equal strata, and each is given as many configs; where none can, a Latin
hypercube gives every option of every choice as many.

The claim of the paper: stratified and Latin hypercube samples estimate a mean with less variance than a simple random
sample of the same size, the latter wherever the function is monotonic in each of its inputs.

Where this implementation differs: strata have equal widths, not equal probabilities, as the whole front shall be seen
and no mean be estimated. In a space too large to be listed, a stratum holds those of many draws that fall into it,
half of them even and half leaning to small or large options, so that the ends are not empty; it is not drawn from
evenly then. The Latin hypercube is one of discrete options: each appears as often as any other, or once more.
"""

from __future__ import annotations

from dataclasses import dataclass
from random import Random
from typing import ClassVar

import numpy as np

from ...checks import WrongShapeError, unknown
from ...space import Config, Count, Problem, Space
from ...technique import Paper, Proposer, Searcher
from ._arrays import draws, generator, leaning, pool
from ._batches import Batches

_POOL = 5_000
_CHUNK = 16


@dataclass(frozen=True)
class Stratified(Searcher):
    """Draw as many configs from every stratum of a cost, without repeats.

    Attributes:
        strata: how many; also the samples of one Latin hypercube.
        statistic: the cost, by the name of a statistic; ``None`` for the first statistic, or the first objective that
            can be computed, or, where there is neither, Latin hypercubes.
    """

    strata: int = 10
    statistic: str | None = None

    paper: ClassVar[Paper] = Paper(
        "McKay, Beckman, Conover",
        1979,
        "A Comparison of Three Methods for Selecting Values of Input Variables in the Analysis of Output from a "
        "Computer Code",
    )

    def __post_init__(self) -> None:
        if self.strata < 1:
            raise WrongShapeError(f"strata are at least 1, got {self.strata}")

    def start(self, problem: Problem) -> Proposer:
        """Begin a search; ``problem.seed`` and the history decide every config.

        Raises:
            UnknownNameError: the problem has no such statistic; offers the nearest.
        """
        if self.statistic is not None and self.statistic not in problem.statistics:
            raise unknown("statistic", self.statistic, problem.statistics)
        named = [problem.statistics[self.statistic]] if self.statistic is not None else []
        costs = [*named, *problem.statistics.values(), *problem.exact.values()]
        if costs and problem.space.choices:
            return _Strata(problem, self.strata, costs[0])
        return _Hypercubes(problem, self.strata)


class _Hypercubes(Batches):
    def __init__(self, problem: Problem, count: int) -> None:
        super().__init__(problem)
        self._count = count

    def plan(self, rng: Random, number: int) -> list[Config]:
        return self.space.configs(hypercube(self.space, self._count, generator(rng)))


def hypercube(space: Space, count: int, rng: np.random.Generator) -> np.ndarray:
    """Return ``count`` option indices (count, choices) that hold each option of a choice as often, or once more."""
    columns = []
    for allowed in space.allowed():
        order = rng.permutation(allowed)  # which options come once more
        columns.append(rng.permutation(np.resize(order, count)))
    return np.stack(columns, axis=1) if columns else np.zeros((count, 0), dtype=np.int64)


class _Strata(Batches):
    def __init__(self, problem: Problem, count: int, cost: Count) -> None:
        super().__init__(problem)
        self._count = count
        self._cost = cost
        ends = self.level(problem.space.indices([problem.space.smallest(), problem.space.largest()]))
        self._low, self._high = float(ends.min()), float(ends.max())

    def level(self, indices: np.ndarray) -> np.ndarray:
        """The logarithm of the cost (n,)."""
        return np.log(np.maximum(np.asarray(self._cost(indices), dtype=float), np.finfo(float).tiny))

    def strata(self, indices: np.ndarray) -> np.ndarray:
        """The stratum (n,) of each config; the outermost ones take what lies beyond the ends."""
        width = (self._high - self._low) / self._count or 1.0
        return np.clip((self.level(indices) - self._low) // width, 0, self._count - 1).astype(int)

    def plan(self, rng: Random, number: int) -> list[Config]:
        array_rng = generator(rng)
        taken = np.zeros(self._count, dtype=int)
        known = [*self.told, *self.pending]
        if known:
            np.add.at(taken, self.strata(self.space.indices(known)), 1)
        candidates = self._candidates(array_rng)
        candidates = candidates[array_rng.permutation(len(candidates))]
        strata = self.strata(candidates)
        batch: list[Config] = []
        level = None
        for stratum in np.lexsort((array_rng.random(self._count), taken)):
            if level is not None and taken[stratum] > level:
                break  # the emptiest that have something new, each once
            new = self._new(candidates[strata == stratum])
            level = taken[stratum] if new else level
            batch += new
        return batch

    def _new(self, candidates: np.ndarray) -> list[Config]:
        """The first of ``candidates`` (n, choices) that is unseen, if there is one."""
        for start in range(0, len(candidates), _CHUNK):
            left = self.unseen.of(self.space.configs(candidates[start : start + _CHUNK]))
            if left:
                return left[:1]
        return []

    def _candidates(self, rng: np.random.Generator) -> np.ndarray:
        if self.space.size <= _POOL:
            return pool(self.space, _POOL, rng)
        return np.concatenate([draws(self.space, _POOL // 2, rng), leaning(self.space, _POOL // 2, rng)])
