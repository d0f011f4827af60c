"""What controllers that grow networks share: what was grown, what of it is known, and learning from it in batches."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Generic, TypeVar

import numpy as np

from ...space import Config, Problem
from ._adam import Adam
from ._batches import Batches
from ._worth import Baseline, rewards

Steps = TypeVar("Steps")
"""The decisions that led to one network."""


class Growing(Batches, Generic[Steps]):
    """A running search by REINFORCE: networks that were grown are learnt from once a batch of them is known.

    Args:
        problem: what is searched.
        parameters: of the controller, changed in place.
        batch: networks per update.
        rate: of learning.
        memory: share of the baseline that stays when a reward comes.
    """

    def __init__(
        self, problem: Problem, parameters: Sequence[np.ndarray], batch: int, rate: float, memory: float
    ) -> None:
        super().__init__(problem)
        self._batch = batch
        self._adam = Adam(parameters, rate)
        self._baseline = Baseline(memory)
        self._known: dict[Config, Config] = {}  # the config that stands for a network to the one that was measured
        self._grown: list[tuple[Config, Steps]] = []  # by the config that stands for the network; not learnt from yet

    @abstractmethod
    def ascent(self, steps: Sequence[Steps], advantages: np.ndarray) -> list[np.ndarray]:
        """Return the gradient of what is to grow: the decisions' log-probabilities, weighted by ``advantages``."""

    def tell(self, config: Config, values: Sequence[float], violation: float = 0.0) -> None:
        """Learn what ``config`` is worth, see :class:`pliant.technique.Proposer`."""
        super().tell(config, values, violation)
        self._known[self.unseen.same([config])[0]] = config
        self._learn()

    def grew(self, config: Config, steps: Steps) -> bool:
        """Note how ``config`` was grown; return whether it is new, and to be measured."""
        self._grown.append((self.unseen.same([config])[0], steps))
        new = config in self.unseen
        if not new:
            self._learn()
        return new

    def _learn(self) -> None:
        """Take a step for what was grown and is known now, if that is a batch."""
        ready = [each for each in self._grown if each[0] in self._known]
        if len(ready) < self._batch:
            return
        self._grown = [each for each in self._grown if each[0] not in self._known]
        found = rewards(self.told.values(), [self._known[config] for config, _ in ready])
        ascent = self.ascent([steps for _, steps in ready], self._baseline.advantages(found))
        self._adam.step([-each for each in ascent])
