"""What searchers that plan their configs in batches share: what is known, what is asked for, and what is left."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

import numpy as np

from ...space import Config, Problem
from ._threads import one_thread
from ._unseen import Unseen


@dataclass(frozen=True)
class Measured:
    """A config and what it was told to be worth.

    Attributes:
        config: what was measured.
        values: one per objective, minimised; infinite where measuring failed.
        violation: 0 where all constraints hold.
    """

    config: Config
    values: tuple[float, ...]
    violation: float = 0.0

    @property
    def failed(self) -> bool:
        """Whether there are no values to learn from."""
        return not all(math.isfinite(value) for value in (*self.values, self.violation))


class Batches(ABC):
    """A running search that plans a batch of configs from all that it knows, and hands them out one by one.

    A batch may hold what is known or asked for already: that is left out, and an unseen config is drawn in place of
    a batch that has nothing new. So is what breaks a constraint that needs no measurement, while there is other. What
    is asked depends on the seed and on what was asked and told in which order.
    """

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        self.space = problem.space
        self.unseen = Unseen(problem)
        self.told: dict[Config, Measured] = {}
        self._pending: dict[Config, Config] = {}  # by the config that stands for the network
        self._queue: list[Config] = []
        self._round = 0

    @abstractmethod
    def plan(self, rng: Random, number: int) -> list[Config]:
        """Return the batch of this ``number`` (0, 1, …), the most wanted first; ``rng`` is its own."""

    def ask(self, n: int = 1) -> list[Config]:
        """Return up to ``n`` configs, see :class:`pliant.technique.Proposer`."""
        asked: list[Config] = []
        for _ in range(n):
            config = self._next()
            if config is None:
                break
            self.unseen.add(config)
            self._pending[self.unseen.same([config])[0]] = config
            asked.append(config)
        if asked or self._pending:
            return asked
        rng = Random(f"{self.problem.seed}:again:{len(self.told)}")
        return [self.space.sample(rng) for _ in range(n)]  # the space is exhausted

    def _next(self) -> Config | None:
        while self._queue:
            config = self._queue.pop(0)
            if config in self.unseen:
                return config
        rng = Random(f"{self.problem.seed}:{self._round}")
        with one_thread():
            planned = self.unseen.of(self.plan(rng, self._round))
        self._round += 1
        kept = self.unseen.allowed(planned)
        if kept:
            self._queue = kept[1:]
            return kept[0]
        drawn = self.unseen.draw(rng)
        if not planned or (drawn is not None and self.unseen.allowed([drawn])):
            return drawn
        self._queue = planned[1:]
        return planned[0]

    def tell(self, config: Config, values: Sequence[float], violation: float = 0.0) -> None:
        """Learn what ``config`` is worth, see :class:`pliant.technique.Proposer`."""
        self._pending.pop(self.unseen.same([config])[0], None)
        self.unseen.add(config)
        self.told[config] = Measured(config, tuple(map(float, values)), float(violation))

    @property
    def pending(self) -> list[Config]:
        """What was asked for and not told yet, in order."""
        return list(self._pending.values())

    def random(self, rng: Random, count: int) -> list[Config]:
        """Return up to ``count`` different unseen configs, drawn evenly."""
        found: dict[Config, None] = {}
        for _ in range(20):
            found.update(dict.fromkeys(self.unseen.of(self.space.sample(rng) for _ in range(count))))
            found = dict.fromkeys(self.unseen.of(found))
            if len(found) >= count:
                break
        return list(found)[:count]

    def data(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return option indices (n, choices), values (n, objectives) and violations (n,) of what did not fail."""
        good = [each for each in self.told.values() if not each.failed]
        values = np.array([each.values for each in good], dtype=float).reshape(len(good), self.problem.objectives)
        indices = self.space.indices([each.config for each in good])
        return indices, values, np.array([each.violation for each in good], dtype=float)
