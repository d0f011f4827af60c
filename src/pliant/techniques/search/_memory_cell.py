"""A step of long short-term memory after several memories, forward and backward, in numpy."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.special import expit

Memory = tuple[int, np.ndarray, np.ndarray]
"""The kind of a memory, its key (n, width of the kind's) and its cell (n, hidden)."""

Inputs = tuple[np.ndarray, np.ndarray, Sequence[Memory]]
"""What a cell gets: tokens (n, inputs), context (n, context), and memories."""


class MemoryCell:
    """One step of a memory that has several others before it.

    Gates of input, output and candidate see the token and a context; each memory before has a gate of its own that
    sees the token and a key. With one memory, whose state is context and key, it is the LSTM of Hochreiter and
    Schmidhuber (1997). With the sum of the children's states as context, and each child's own as its key, it is the
    child-sum cell of Tai, Socher and Manning (2015, Improved Semantic Representations From Tree-Structured Long
    Short-Term Memory Networks, arXiv 1503.00075); with all states side by side for both, their N-ary cell.

    Args:
        inputs: width of a token.
        context: width of the context.
        keys: widths of the keys, one per kind of memory; memories of a kind share weights.
        hidden: width of the state.
        rng: draws the first weights.
    """

    def __init__(self, inputs: int, context: int, keys: Sequence[int], hidden: int, rng: np.random.Generator) -> None:
        def drawn(*shape: int) -> np.ndarray:
            return rng.normal(0, 1 / np.sqrt(shape[0]), shape)

        self.inputs, self.hidden = inputs, hidden
        self.gates, self.gate_bias = drawn(inputs + context, 3 * hidden), np.zeros(3 * hidden)
        self.forget, self.forget_bias = drawn(inputs, hidden), np.ones(hidden)
        self.keys = [drawn(width, hidden) for width in keys]

    @property
    def parameters(self) -> list[np.ndarray]:
        """What is trained, in the order of :meth:`back`."""
        return [self.gates, self.gate_bias, self.forget, self.forget_bias, *self.keys]

    def step(
        self, token: np.ndarray, context: np.ndarray, memories: Sequence[Memory]
    ) -> tuple[np.ndarray, np.ndarray, tuple[np.ndarray, ...]]:
        """Return the state and the cell (n, hidden), and what :meth:`back` needs, from :data:`Inputs`."""
        size = self.hidden
        raw = np.concatenate([token, context], axis=1) @ self.gates + self.gate_bias
        opened, shown, new = expit(raw[:, :size]), expit(raw[:, size : 2 * size]), np.tanh(raw[:, 2 * size :])
        base = token @ self.forget + self.forget_bias
        kept = [expit(base + key @ self.keys[kind]) for kind, key, _ in memories]
        cell = opened * new
        for gate, (_, _, before) in zip(kept, memories, strict=True):
            cell = cell + gate * before
        squashed = np.tanh(cell)
        return shown * squashed, cell, (opened, shown, new, squashed, *kept)

    def back(
        self,
        inputs: Inputs,
        kept: tuple[np.ndarray, ...],
        slopes: tuple[np.ndarray, np.ndarray],
        found: Sequence[np.ndarray],
    ) -> tuple[np.ndarray, np.ndarray, list[tuple[np.ndarray, np.ndarray]]]:
        """Add the gradients of the parameters to ``found``; return those of what it got.

        Args:
            inputs: what :meth:`step` got.
            kept: what it kept.
            slopes: gradients of the state and of the cell (n, hidden).
            found: arrays like :attr:`parameters`.

        Returns:
            Gradients of the token, of the context, and of each memory's key and cell.
        """
        token, context, memories = inputs
        opened, shown, new, squashed, *gates = kept
        cell = slopes[1] + slopes[0] * shown * (1 - squashed**2)
        raw = np.concatenate(
            [
                cell * new * opened * (1 - opened),
                slopes[0] * squashed * shown * (1 - shown),
                cell * opened * (1 - new**2),
            ],
            axis=1,
        )
        joined = np.concatenate([token, context], axis=1)
        found[0][...] += joined.T @ raw
        found[1][...] += raw.sum(axis=0)
        both = raw @ self.gates.T
        to_token, to_memories = both[:, : self.inputs].copy(), []
        for gate, (kind, key, before) in zip(gates, memories, strict=True):
            inner = cell * before * gate * (1 - gate)
            found[2][...] += token.T @ inner
            found[3][...] += inner.sum(axis=0)
            found[4 + kind][...] += key.T @ inner
            to_token += inner @ self.forget.T
            to_memories.append((inner @ self.keys[kind].T, cell * gate))
        return to_token, both[:, self.inputs :], to_memories
