"""The search inside a step of a model-based searcher: which unseen config does the model promise most of?"""

from __future__ import annotations

from collections.abc import Callable, Set

import numpy as np

from ...space import Problem
from ._arrays import limits, pool

Score = Callable[[np.ndarray], np.ndarray]
"""Option indices (n, choices) to what they promise (n,); more is better."""

_ROUNDS = 4
_ELITE = 24
_NEIGHBOURS = 256


class Inner:
    """Evolves candidates by their score; keeps the best of one step as a start of the next.

    Args:
        problem: gives options, canonical forms and the constraints that need no measurement.
        candidates: how many are scored in a step; a space of so few configs is scored as a whole.
    """

    def __init__(self, problem: Problem, candidates: int) -> None:
        self._problem = problem
        self._allowed = problem.space.allowed()
        self._candidates = candidates
        self._counts = np.array([len(options) for options in self._allowed], dtype=np.int64)
        self._ordered = np.array([choice.ordered for choice in problem.space.choices], dtype=bool)
        most = max((len(choice.options) for choice in problem.space.choices), default=1)
        self._options = np.zeros((len(self._allowed), most), dtype=np.int64)  # place among the allowed to option
        self._places = np.zeros((len(self._allowed), most), dtype=np.int64)  # and back
        for at, options in enumerate(self._allowed):
            self._options[at, : len(options)] = options
            self._places[at, options] = np.arange(len(options))
        self._free = np.array([at for at, options in enumerate(self._allowed) if len(options) > 1], dtype=int)
        self._warm = np.empty((0, len(self._allowed)), dtype=np.int64)
        self._all = self._canonical(pool(problem.space, candidates, np.random.default_rng(0)))
        self._whole = problem.space.size <= candidates

    def best(self, score: Score, parents: np.ndarray, known: Set[bytes], rng: np.random.Generator) -> np.ndarray | None:
        """Return the option indices (choices,) of the best candidate found, ``None`` where all are known.

        Args:
            score: says what candidates promise.
            parents: configs (n, choices) that are good already; candidates are bred from them.
            known: :func:`keys` of canonical configs that must not be proposed.
            rng: decides.
        """
        found = np.empty((0, len(self._allowed)), dtype=np.int64)
        worth = np.empty(0)
        seen = set(known)

        def add(candidates: np.ndarray) -> None:
            nonlocal found, worth
            fresh = self._fresh(candidates, seen)
            if len(fresh):
                found = np.concatenate([found, fresh])
                worth = np.concatenate([worth, _finite(score(fresh)) - self._penalty(fresh)])

        if self._whole:
            add(self._all)
        else:
            part = max(8, self._candidates // (_ROUNDS + 2))
            add(np.concatenate([self._warm, self.spread(part, rng), self._bred(parents, part, rng)]))
            for _ in range(_ROUNDS):
                elite = found[np.argsort(-worth, kind="stable")[:_ELITE]]
                add(self._bred(np.concatenate([elite, parents]) if len(elite) else parents, part, rng))
            if len(found):
                add(self._neighbours(found[np.argmax(worth)], rng))
        if not len(found):
            return None
        order = np.argsort(-worth, kind="stable")
        self._warm = found[order[1 : 1 + _ELITE]]
        return found[order[0]]

    def spread(self, count: int, rng: np.random.Generator) -> np.ndarray:
        """Return canonical configs (about ``count``, choices) from small to large.

        Evenly drawn configs of many choices are all of middling size; so each draw leans to smaller or larger
        options, by how much it draws first.
        """
        lean = np.exp(rng.uniform(-4.0, 4.0, count))
        most = self._counts.max(initial=1)
        steps = np.arange(most)
        place = steps / np.maximum(self._counts - 1, 1)[:, None]  # (choices, options)
        weights = np.where(steps < self._counts[:, None], lean[:, None, None] ** place, 0.0).cumsum(axis=2)
        drawn = rng.random((count, len(self._counts))) * weights[:, :, -1]
        picked = (drawn[:, :, None] > weights).sum(axis=2)
        return self._canonical(self._options[np.arange(len(self._counts)), picked])

    def _penalty(self, candidates: np.ndarray) -> np.ndarray:
        """Put what breaks a constraint for sure behind all that does not."""
        broken = limits(self._problem, candidates)
        return np.where(broken > 0, 1e200 * (1.0 + np.minimum(broken, 1e6)), 0.0)

    def _canonical(self, rows: np.ndarray) -> np.ndarray:
        canonical = self._problem.canonical
        return rows if canonical is None or not len(rows) else canonical(rows)

    def _fresh(self, candidates: np.ndarray, seen: set[bytes]) -> np.ndarray:
        """Return the canonical forms of ``candidates`` that were not seen, each once, and take them for seen."""
        rows = self._canonical(candidates)
        kept = []
        for at, key in enumerate(keys(rows)):
            if key not in seen:
                seen.add(key)
                kept.append(at)
        return rows[kept]

    def _bred(self, parents: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
        """Return children (count, choices): a parent, half of them mixed with another, with a few options changed."""
        if not len(parents) or not len(self._free):
            return np.empty((0, len(self._allowed)), dtype=np.int64)
        children = parents[rng.integers(len(parents), size=count)].copy()
        mates = parents[rng.integers(len(parents), size=count)]
        swap = (rng.random(children.shape) < 0.5) & (rng.random((count, 1)) < 0.5)
        children = np.where(swap, mates, children)
        changes = np.minimum(rng.geometric(0.5, size=count), len(self._free))
        keys = rng.random((count, len(self._free)))
        order = np.argsort(keys, axis=1)[:, : changes.max()]
        for turn in range(order.shape[1]):
            rows = np.flatnonzero(changes > turn)
            self._change(children, rows, self._free[order[rows, turn]], rng)
        return children

    def _change(self, configs: np.ndarray, rows: np.ndarray, at: np.ndarray, rng: np.random.Generator) -> None:
        """Give ``configs`` in each of ``rows`` another option of choice ``at``: half of the time the next one up or
        down, where the choice has an order.
        """
        counts = self._counts[at]
        places = self._places[at, configs[rows, at]]
        others = (rng.random(len(rows)) * (counts - 1)).astype(np.int64)
        others += others >= places
        steps = np.where(rng.random(len(rows)) < 0.5, 1, -1)
        beside = np.where((places + steps >= 0) & (places + steps < counts), places + steps, places - steps)
        near = self._ordered[at] & (rng.random(len(rows)) < 0.5)
        configs[rows, at] = self._options[at, np.where(near, beside, others)]

    def _neighbours(self, config: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Return the configs (n, choices) that differ from ``config`` in one option; at most so many."""
        rows = []
        for at in self._free:
            for option in self._allowed[at]:
                if option != config[at]:
                    row = config.copy()
                    row[at] = option
                    rows.append(row)
        if len(rows) > _NEIGHBOURS:
            rows = [rows[at] for at in rng.choice(len(rows), _NEIGHBOURS, replace=False)]
        return np.array(rows, dtype=np.int64).reshape(len(rows), len(config))


def _finite(scores: np.ndarray) -> np.ndarray:
    return np.nan_to_num(scores, nan=-1e100, posinf=1e100, neginf=-1e100)


def keys(rows: np.ndarray) -> list[bytes]:
    """Return for each of ``rows`` (n, choices) what tells it from others, for sets."""
    data, step = rows.astype(np.int16).tobytes(), 2 * rows.shape[1]
    return [data[at * step : (at + 1) * step] for at in range(len(rows))]
