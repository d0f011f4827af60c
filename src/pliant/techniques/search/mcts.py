"""Monte Carlo tree search: decide choice by choice, from the root down, and follow what has paid.

A config is a path through a tree: one level for every choice, in their order. From the root, the child with the best
upper confidence bound is taken for as long as all children were tried; from there on options are drawn at random. What
the config was worth counts for every node on its path. With bisection, the options of an ordered choice are not
siblings: they are halved again and again, so that what one of them was worth tells something of its neighbours.

The claim of the paper: in spaces written down as trees of modules (with alternatives, repetitions and optional parts),
tree search with bisection finds better networks than random search in as many evaluations.

Where this implementation differs: the worth of a config is the paper's (its score, from 0 for the worst to 1 for the
best so far) for one objective; for several it is the share of the measured configs in worse fronts. A choice that does
not matter where others have been decided (inside an alternative that was not taken) is no level of the tree. Configs
that were measured already are passed by. See :mod:`pliant.family.language` for the paper's language of spaces.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import ClassVar

import numpy as np

from ...checks import WrongShapeError
from ...space import Config, Problem
from ...technique import Paper, Proposer, Searcher
from ._batches import Batches
from ._standing import standing

_TRIES = 30

Node = tuple[tuple[int, int], ...]
"""The way to a node: for every step the choice, and which child was taken."""


@dataclass(frozen=True)
class Mcts(Searcher):
    """Monte Carlo tree search with bisection.

    Attributes:
        exploration: weight of how seldom a child was tried against what it was worth.
        bisection: whether ordered options are halved rather than siblings.
    """

    exploration: float = 0.33
    bisection: bool = True

    paper: ClassVar[Paper] = Paper(
        "Negrinho, Gordon", 2017, "DeepArchitect: Automatically Designing and Training Deep Architectures", "1704.08792"
    )

    def __post_init__(self) -> None:
        if self.exploration < 0:
            raise WrongShapeError(f"exploration is at least 0, got {self.exploration}")

    def start(self, problem: Problem) -> Proposer:
        """Begin a search; ``problem.seed`` and the history decide every config."""
        return _Tree(self, problem)


class _Tree(Batches):
    def __init__(self, settings: Mcts, problem: Problem) -> None:
        super().__init__(problem)
        self._settings = settings
        self._ways: dict[Config, list[Node]] = {}
        self._alive: dict[tuple[int, ...], bool] = {}
        self._allowed = [options.tolist() for options in problem.space.allowed()]

    def plan(self, rng: Random, number: int) -> list[Config]:
        visits, worth = self._statistics()
        for _ in range(_TRIES):
            config = self._descend(rng, visits, worth)
            if config in self.unseen:
                return [config]
        return []

    def _descend(self, rng: Random, visits: dict[Node, int], worth: dict[Node, float]) -> Config:
        """Walk from the root to a leaf: by the confidence bounds while all children were tried, then at random."""
        row = [0] * len(self._allowed)
        node: Node = ()
        known = True
        for at in range(len(row)):
            options = self._allowed[at]
            if not self._matters(row, at):
                row[at] = options[-1]
                continue
            while len(options) > 1:
                parts = self._parts(at, options)
                taken = self._child(node, at, len(parts), visits, worth, rng) if known else rng.randrange(len(parts))
                node = (*node, (at, taken))
                known = known and node in visits
                options = parts[taken]
            row[at] = options[0]
        return self.space.configs(np.array([row], dtype=np.int64).reshape(1, len(row)))[0]

    def _parts(self, at: int, options: list[int]) -> list[list[int]]:
        """Return how the ``options`` of a choice that are left are divided among the children of a node."""
        if self._settings.bisection and self.space.choices[at].ordered:
            middle = (len(options) + 1) // 2
            return [options[:middle], options[middle:]]
        return [[option] for option in options]

    def _child(
        self, node: Node, at: int, count: int, visits: dict[Node, int], worth: dict[Node, float], rng: Random
    ) -> int:
        children = [(*node, (at, child)) for child in range(count)]
        new = [child for child, each in enumerate(children) if each not in visits]
        if new:
            return rng.choice(new)
        total = math.log(sum(visits[each] for each in children) + 1)
        bounds = [
            worth[each] / visits[each] + 2 * self._settings.exploration * math.sqrt(2 * total / visits[each])
            for each in children
        ]
        best = max(bounds)
        return rng.choice([child for child, bound in enumerate(bounds) if bound == best])

    def _matters(self, row: list[int], at: int) -> bool:
        """Return whether a choice matters, given those before it in ``row``."""
        if self.problem.active is None:
            return True
        key = tuple(row[:at])
        if key not in self._alive:
            decided = np.array([[*key, *[0] * (len(row) - at)]], dtype=np.int64)
            self._alive[key] = bool(self.problem.active(decided)[0, at])
        return self._alive[key]

    def _statistics(self) -> tuple[dict[Node, int], dict[Node, float]]:
        """Return how often each node was passed and the sum of what came of it; a config in flight is middling."""
        told = list(self.told.values())
        scores = _scores([each.values for each in told], [each.violation for each in told])
        visits: dict[Node, int] = {}
        worth: dict[Node, float] = {}
        passed = [each.config for each in told] + self.pending
        for config, score in zip(passed, [*scores, *[0.5] * len(self.pending)], strict=True):
            if config not in self._ways:
                self._ways[config] = self._way(self.space.indices([config])[0].tolist())
            for node in self._ways[config]:
                visits[node] = visits.get(node, 0) + 1
                worth[node] = worth.get(node, 0.0) + score
        return visits, worth

    def _way(self, row: list[int]) -> list[Node]:
        """Return the nodes from below the root to the leaf of a config."""
        found: list[Node] = []
        node: Node = ()
        partial = [0] * len(row)
        for at, option in enumerate(row):
            options = self._allowed[at]
            if self._matters(partial, at):
                while len(options) > 1:
                    parts = self._parts(at, options)
                    taken = next(child for child, part in enumerate(parts) if option in part)
                    node = (*node, (at, taken))
                    found.append(node)
                    options = parts[taken]
            partial[at] = option
        return found


def _scores(values: Sequence[Sequence[float]], violations: Sequence[float]) -> list[float]:
    """Return from 0 to 1 how good each measured config is, 0 where it failed."""
    if not values:
        return []
    points, broken = np.array(values, dtype=float), np.array(violations, dtype=float)
    if points.shape[1] == 1:
        good = np.isfinite(points[:, 0]) & (broken == 0)
        if not good.any():
            return [0.0] * len(points)
        low, high = points[good, 0].min(), points[good, 0].max()
        scaled = 1.0 - (np.where(good, points[:, 0], high) - low) / max(high - low, 1e-300)
        return np.where(good, scaled, 0.0).tolist()
    rank, _ = standing(points, np.where(np.isfinite(points).all(axis=1), broken, np.inf))
    return [float(np.mean(rank > own)) for own in rank]
