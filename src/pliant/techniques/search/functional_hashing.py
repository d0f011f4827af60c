"""Unified functional hashing: what computes the same as something measured is not measured again.

Around any searcher: each config that it proposes is hashed by what it computes, and where the hash is known the stored
values are told at once and the searcher goes on. So an evolution may walk through equal configs, which it needs to do
to reach others, and pays for none of them. Where measurements are noisy, some are made again on purpose, and all of one
hash are averaged.

The claim of the paper: with one hashing method for programs, graphs and formulae, searches find better solutions at
an equal number of evaluations, above all where evaluations are noisy.

The hash is that of the outputs, rounded, on a fixed small batch with fixed seeds, wherever the caller gives a function
that computes them: ``FunctionalHashing().around(problem, outputs)``. Where this implementation differs: started as a
searcher it sees no network, and takes for equal what the problem's canonical form says is (known without running
anything, and exact); outputs are those before training, the paper hashes those along some steps of it, too.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, replace
from random import Random
from typing import ClassVar

import numpy as np

from ...checks import WrongShapeError
from ...space import Config, Problem
from ...technique import Paper, Proposer, Searcher
from ._inside import searcher_of

_CYCLES = 300
"""Known configs in a row after which the searcher inside is taken to have nothing new."""

Outputs = Callable[[Config], np.ndarray]
"""What the network of a config computes on the fixed batch, before it is trained."""


@dataclass(frozen=True)
class FunctionalHashing(Searcher):
    """A cache of equivalent configs around another searcher.

    Attributes:
        searcher: the searcher inside, or its name, for its default settings.
        again: probability that an equivalent of what is known is measured nonetheless, and averaged with it.
        digits: that outputs are rounded to, relative to the largest.
    """

    searcher: str | Searcher = "regularized_evolution"
    again: float = 0.0
    digits: int = 5

    paper: ClassVar[Paper] = Paper(
        "Gillard, Jonany, Miao, Munn, de Souza, Dungay, Liang, So, Le, Real",
        2023,
        "Unified Functional Hashing in Automatic Machine Learning",
        "2302.05433",
    )

    def __post_init__(self) -> None:
        if not 0 <= self.again <= 1 or self.digits < 1:
            raise WrongShapeError(f"again is a probability and digits are at least 1, got {self!r}")

    def start(self, problem: Problem) -> Proposer:
        """Begin a search in which configs of one canonical form are equal.

        Raises:
            UnknownNameError: there is no such searcher; offers the nearest.
            WrongShapeError: the searcher inside is none, or this one again.
        """
        return self._cached(problem, lambda config: problem.same([config])[0])

    def around(self, problem: Problem, outputs: Outputs) -> Cached:
        """Begin a search in which configs of equal ``outputs`` are equal; errors as for :meth:`start`."""
        return self._cached(problem, lambda config: fingerprint(outputs(config), self.digits))

    def _cached(self, problem: Problem, key: Callable[[Config], Hashable]) -> Cached:
        inside = searcher_of(self.searcher, "searcher")
        if isinstance(inside, FunctionalHashing):
            raise WrongShapeError(f"searcher is another technique of kind 'search', got {self.searcher!r}")
        return Cached(inside.start(replace(problem, forms=None)), key, self.again, problem.seed)


def fingerprint(outputs: np.ndarray, digits: int) -> str:
    """Return a hash of ``outputs``, the same for all that agree when rounded to ``digits`` relative to the largest."""
    found = np.asarray(outputs, dtype=float)
    largest = np.abs(found[np.isfinite(found)]).max(initial=0.0)
    scale = 10.0 ** np.ceil(np.log10(largest)) if largest > 0 else 1.0
    rounded = np.round(found / scale, digits) + 0.0  # and no negative zeros
    return hashlib.sha256(f"{found.shape}{scale}".encode() + rounded.tobytes()).hexdigest()


class Cached:
    """A running search whose searcher inside sees every cycle, and whose caller only those that need measuring.

    Args:
        inside: proposes.
        key: of a config; equal keys have equal values.
        again: probability that what is known is measured nonetheless.
        seed: decides when.
    """

    def __init__(self, inside: Proposer, key: Callable[[Config], Hashable], again: float, seed: int) -> None:
        self._inside = inside
        self._key = key
        self._again = again
        self._rng = Random(f"{seed}:again")
        self._known: dict[Hashable, list[tuple[tuple[float, ...], float]]] = {}
        self._same: dict[Hashable, dict[Config, None]] = {}  # what the searcher inside knows of each
        self._pending: dict[Hashable, int] = {}
        self.cycles = 0

    def ask(self, n: int = 1) -> list[Config]:
        """Return up to ``n`` configs whose values are not known, see :class:`pliant.technique.Proposer`."""
        asked: list[Config] = []
        for _ in range(_CYCLES):
            if len(asked) >= n:
                break
            proposed = self._inside.ask(1)
            if not proposed:
                break
            [config] = proposed
            self.cycles += 1
            key = self._key(config)
            repeated = config in self._same.get(key, {})
            self._same.setdefault(key, {})[config] = None
            if key in self._known and (repeated or self._rng.random() >= self._again):
                self._inside.tell(config, *self._mean(key))
            elif key not in self._pending:
                self._pending[key] = 1
                asked.append(config)
        return asked

    def tell(self, config: Config, values: Sequence[float], violation: float = 0.0) -> None:
        """Learn what ``config`` is worth, and so what all equivalent configs are."""
        key = self._key(config)
        self._pending.pop(key, None)
        self._same.setdefault(key, {})[config] = None
        self._known.setdefault(key, []).append((tuple(map(float, values)), float(violation)))
        for same in self._same[key]:
            self._inside.tell(same, *self._mean(key))

    def _mean(self, key: Hashable) -> tuple[list[float], float]:
        measured = self._known[key]
        good = [each for each in measured if np.isfinite([*each[0], each[1]]).all()] or measured
        values = np.mean([each[0] for each in good], axis=0)
        return values.tolist(), float(np.mean([each[1] for each in good]))
