"""A policy that reads a network, choice by choice, in both directions, and says what of it shall grow."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import expit

from ...space import Space


@dataclass(frozen=True)
class Steps:
    """Decisions that were taken, one row each. Configs are places among the allowed options.

    Attributes:
        rows: the network that was looked at (n, choices).
        active: which of its choices matter (n, choices); the others are not read.
        widened: which choices the wider actor let grow (n, choices).
        taken: which insertion the deeper actor took (n,); -1 where the wider actor decided instead.
    """

    rows: np.ndarray
    active: np.ndarray
    widened: np.ndarray
    taken: np.ndarray

    @classmethod
    def joined(cls, parts: Sequence[Steps]) -> Steps:
        """Return all decisions of ``parts``, at least one, in a row."""
        columns = zip(*((each.rows, each.active, each.widened, each.taken) for each in parts), strict=True)
        return cls(*(np.concatenate(column) for column in columns))


class MetaController:
    """A bidirectional recurrent encoder with two actors on its states.

    The wider actor decides for every ordered choice whether it goes one option up: one sigmoid, shared by all. The
    deeper actor takes one of the insertions, by a softmax: an ordered choice of booleans becomes true, or a choice
    without an order leaves its first option for another; or nothing is inserted.

    Args:
        space: its choices, in their order, and the options that the constraints allow.
        hidden: size of each direction's state, and of the embedding of an option.
        rng: draws the first weights: nearly even.
    """

    def __init__(self, space: Space, hidden: int, rng: np.random.Generator) -> None:
        options = [
            [choice.options[at] for at in kept] for choice, kept in zip(space.choices, space.allowed(), strict=True)
        ]
        self.sizes = np.array([len(each) for each in options], dtype=np.int64)
        self._starts = np.concatenate([[0], np.cumsum(self.sizes)])[: len(options)].astype(np.int64)
        inserts = [
            not choice.ordered or all(isinstance(option, bool) for option in each)
            for choice, each in zip(space.choices, options, strict=True)
        ]
        self.wide = ~np.array(inserts, dtype=bool)  # an empty list too must become booleans
        pairs = [(at, to) for at, each in enumerate(options) if inserts[at] for to in range(1, len(each))]
        self.insertions = np.array(pairs, dtype=np.int64).reshape(-1, 2)
        tokens, ends = int(self.sizes.sum()), len(pairs) + 1  # the last column is to insert nothing
        self.seen = rng.normal(0, 0.3, (tokens, hidden))
        self.into = rng.normal(0, 1 / np.sqrt(hidden), (2, hidden, hidden))
        self.turn = rng.normal(0, 0.5 / np.sqrt(hidden), (2, hidden, hidden))
        self.wider = rng.normal(0, 0.1, 2 * hidden)
        self.wider_bias = np.zeros(1)
        self.deeper = rng.normal(0, 0.1, (ends, 2 * hidden))
        self.deeper_bias = np.zeros(ends)

    @property
    def parameters(self) -> list[np.ndarray]:
        """What is trained, in the order of :meth:`gradient`."""
        return [self.seen, self.into, self.turn, self.wider, self.wider_bias, self.deeper, self.deeper_bias]

    def can_widen(self, rows: np.ndarray, active: np.ndarray) -> np.ndarray:
        """Return which choices (n, choices) have an option above that of ``rows`` (n, choices)."""
        return active & self.wide & (rows < self.sizes - 1)

    def can_insert(self, rows: np.ndarray, active: np.ndarray) -> np.ndarray:
        """Return which insertions (n, insertions + 1) are left in ``rows`` (n, choices); nothing always is."""
        at = self.insertions[:, 0]
        return np.concatenate([active[:, at] & (rows[:, at] == 0), np.ones((len(rows), 1), dtype=bool)], axis=1)

    # ---- forwards ----------------------------------------------------------------------------------------------------
    def _read(self, rows: np.ndarray, active: np.ndarray) -> np.ndarray:
        """Return the states (2, choices + 1, n, hidden) of both directions; the first of each is zero."""
        count, choices = rows.shape
        states = np.zeros((2, choices + 1, count, self.turn.shape[1]))
        for way in range(2):
            given = self.seen @ self.into[way]
            for number, at in enumerate(self._order(way)):
                before = states[way, number]
                after = np.tanh(before @ self.turn[way] + given[self._starts[at] + rows[:, at]])
                states[way, number + 1] = np.where(active[:, at, None], after, before)
        return states

    def _order(self, way: int) -> range:
        choices = len(self.sizes)
        return range(choices) if way == 0 else range(choices - 1, -1, -1)

    def _outlooks(self, states: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return both states at every choice (n, choices, 2 hidden), and at the ends (n, 2 hidden)."""
        at_choices = np.concatenate([states[0, 1:], states[1, :0:-1]], axis=2).transpose(1, 0, 2)
        return at_choices, np.concatenate([states[0, -1], states[1, -1]], axis=1)

    def _decide(
        self, rows: np.ndarray, active: np.ndarray, outlooks: tuple[np.ndarray, np.ndarray]
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return the wider actor's probabilities (n, choices) and the deeper actor's (n, insertions + 1)."""
        at_choices, ends = outlooks
        grows = expit(at_choices @ self.wider + self.wider_bias)
        each = at_choices[:, self.insertions[:, 0]]
        logits = np.concatenate([(each * self.deeper[:-1]).sum(axis=2), (ends @ self.deeper[-1])[:, None]], axis=1)
        logits = np.where(self.can_insert(rows, active), logits + self.deeper_bias, -np.inf)
        shifted = np.exp(logits - logits.max(axis=1, keepdims=True))
        return grows, shifted / shifted.sum(axis=1, keepdims=True)

    def chances(self, rows: np.ndarray, active: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return how likely each actor is to do what to ``rows`` (n, choices) that matter where ``active``.

        Returns:
            The probability that each choice is widened (n, choices), zero where it cannot be, and that each insertion
            is taken (n, insertions + 1), nothing the last.
        """
        grows, takes = self._decide(rows, active, self._outlooks(self._read(rows, active)))
        return np.where(self.can_widen(rows, active), grows, 0.0), takes

    def log_chances(self, steps: Steps) -> np.ndarray:
        """Return the logarithm of the probability (n,) of each decision."""
        grows, takes = self.chances(steps.rows, steps.active)
        can = self.can_widen(steps.rows, steps.active)
        kept = np.where(steps.widened, grows, 1 - grows)
        wide = np.log(np.where(can, kept, 1.0)).sum(axis=1)
        return np.where(steps.taken < 0, wide, np.log(takes[np.arange(len(takes)), steps.taken]))

    # ---- backwards ---------------------------------------------------------------------------------------------------
    def gradient(self, steps: Steps, weights: np.ndarray) -> list[np.ndarray]:
        """Return the gradients of ``sum(weights * log_chances(steps))``, ``weights`` (n,)."""
        states = self._read(steps.rows, steps.active)
        at_choices, ends = outlooks = self._outlooks(states)
        grows, takes = self._decide(steps.rows, steps.active, outlooks)
        count, deep = np.arange(len(weights)), steps.taken >= 0
        wide = np.where(self.can_widen(steps.rows, steps.active), steps.widened - grows, 0.0)
        wide *= np.where(deep, 0.0, weights)[:, None]
        slope = -takes
        slope[count[deep], steps.taken[deep]] += 1
        slope *= np.where(deep, weights, 0.0)[:, None]
        places = self.insertions[:, 0]
        deeper = np.concatenate(
            [np.einsum("nk,nkh->kh", slope[:, :-1], at_choices[:, places]), (slope[:, -1] @ ends)[None]]
        )
        back = wide[:, :, None] * self.wider
        for column, at in enumerate(places):  # several insertions may be of one choice
            back[:, at] += slope[:, column, None] * self.deeper[column]
        seen, into, turn = self._backwards(steps, states, back, slope[:, -1:] * self.deeper[-1])
        actors = [np.einsum("nc,nch->h", wide, at_choices), wide.sum(keepdims=True)[0], deeper, slope.sum(axis=0)]
        return [seen, into, turn, *actors]

    def _backwards(
        self, steps: Steps, states: np.ndarray, at_choices: np.ndarray, ends: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return the gradients of the encoder's parameters from those of its outlooks."""
        hidden = self.turn.shape[1]
        seen, into, turn = np.zeros_like(self.seen), np.zeros_like(self.into), np.zeros_like(self.turn)
        for way in range(2):
            mine = slice(way * hidden, (way + 1) * hidden)
            given = np.zeros_like(self.seen)
            back = ends[:, mine].copy()
            for number, at in reversed(list(enumerate(self._order(way)))):
                back = back + at_choices[:, at, mine]
                read = steps.active[:, at, None]
                inner = np.where(read, back * (1 - states[way, number + 1] ** 2), 0.0)
                np.add.at(given, self._starts[at] + steps.rows[:, at], inner)
                turn[way] += states[way, number].T @ inner
                back = np.where(read, inner @ self.turn[way].T, back)
            into[way] = self.seen.T @ given
            seen += given @ self.into[way].T
        return seen, into, turn
