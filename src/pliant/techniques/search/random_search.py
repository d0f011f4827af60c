"""Random search: configs drawn evenly from the space, none twice.

The claim of the paper: where few of the choices matter, random trials find good ones sooner than a grid of the same
size, because every trial tries another value of those that matter. It is the baseline that a searcher has to beat.

This implementation draws without repeats while unseen configs remain (the paper draws independently from continuous
ranges, where repeats do not happen).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import ClassVar

from ...space import Config, Space
from ...technique import Paper, Proposer, Searcher
from ._unseen import Unseen


@dataclass(frozen=True)
class RandomSearch(Searcher):
    """Draw configs evenly, without repeats."""

    paper: ClassVar[Paper] = Paper("Bergstra, Bengio", 2012, "Random Search for Hyper-Parameter Optimization")

    def start(self, space: Space, *, objectives: int, seed: int) -> Proposer:
        """Begin a search; ``seed`` and the history decide every config."""
        return _Draws(space, seed)


class _Draws:
    def __init__(self, space: Space, seed: int) -> None:
        self._space = space
        self._rng = Random(seed)
        self._unseen = Unseen(space)

    def ask(self) -> Config:
        config = self._unseen.draw(self._rng) or self._space.sample(self._rng)
        self._unseen.add(config)
        return config

    def tell(self, config: Config, values: Sequence[float], violation: float) -> None:
        self._unseen.add(config)
