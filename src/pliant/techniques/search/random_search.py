"""Random search: configs drawn evenly from the space, none twice.

The claim of the paper: where few of the choices matter, random trials find good ones sooner than a grid of the same
size, because every trial tries another value of those that matter. It is the baseline that a searcher has to beat.

This implementation draws without repeats while unseen configs remain (the paper draws independently from continuous
ranges, where repeats do not happen).
"""

from __future__ import annotations

from dataclasses import dataclass
from random import Random
from typing import ClassVar

from ...space import Config, Problem
from ...technique import Paper, Proposer, Searcher
from ._batches import Batches


@dataclass(frozen=True)
class RandomSearch(Searcher):
    """Draw configs evenly, without repeats."""

    paper: ClassVar[Paper] = Paper("Bergstra, Bengio", 2012, "Random Search for Hyper-Parameter Optimization")

    def start(self, problem: Problem) -> Proposer:
        """Begin a search; ``problem.seed`` and the history decide every config."""
        return _Draws(problem)


class _Draws(Batches):
    def plan(self, rng: Random, number: int) -> list[Config]:
        return []  # an unseen config is drawn
