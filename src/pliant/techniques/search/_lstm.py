"""A recurrent cell with long short-term memory, forward and backward, for the small policies of searchers in numpy."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

Moment = tuple[np.ndarray, ...]
"""What one step keeps for the way back: joined input, gates, cell state before, and the squashed state after."""


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return 0.5 * (1 + np.tanh(0.5 * x))  # no overflow on either side


class Lstm:
    """Hochreiter and Schmidhuber (1997, Long Short-Term Memory), with the forget gate of Gers et al. (2000).

    Args:
        inputs: width of what is read at each step.
        hidden: width of the state.
        rng: draws the first weights.

    Attributes:
        weights: (inputs + hidden, 4 x hidden); the gates are input, forget, output and candidate.
        bias: (4 x hidden,); the forget gate's begins at 1.
    """

    def __init__(self, inputs: int, hidden: int, rng: np.random.Generator) -> None:
        self.hidden = hidden
        self.weights = rng.normal(0, 1 / np.sqrt(inputs + hidden), (inputs + hidden, 4 * hidden))
        self.bias = np.zeros(4 * hidden)
        self.bias[hidden : 2 * hidden] = 1.0

    @property
    def parameters(self) -> list[np.ndarray]:
        """What is trained, in the order of :meth:`back`."""
        return [self.weights, self.bias]

    def begin(self, count: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the first state and cell of ``count`` sequences, zeros (count, hidden) each."""
        return np.zeros((count, self.hidden)), np.zeros((count, self.hidden))

    def _gates(self, joined: np.ndarray) -> list[np.ndarray]:
        return [joined[:, at * self.hidden : (at + 1) * self.hidden] for at in range(4)]

    def step(self, x: np.ndarray, state: np.ndarray, cell: np.ndarray) -> tuple[np.ndarray, np.ndarray, Moment]:
        """Read ``x`` (n, inputs); return the next state and cell (n, hidden), and what :meth:`back` needs."""
        size = self.hidden
        joined = np.concatenate([x, state], axis=1)
        raw = joined @ self.weights + self.bias
        gates = np.concatenate([_sigmoid(raw[:, : 3 * size]), np.tanh(raw[:, 3 * size :])], axis=1)
        opened, kept, shown, new = self._gates(gates)
        after = kept * cell + opened * new
        squashed = np.tanh(after)
        return shown * squashed, after, (joined, gates, cell, squashed)

    def run(self, xs: np.ndarray) -> tuple[np.ndarray, list[Moment]]:
        """Read ``xs`` (steps, n, inputs); return the states (steps, n, hidden) and what :meth:`back` needs."""
        state, cell = self.begin(xs.shape[1])
        states, tape = np.zeros((*xs.shape[:2], self.hidden)), list[Moment]()
        for at, x in enumerate(xs):
            state, cell, moment = self.step(x, state, cell)
            states[at] = state
            tape.append(moment)
        return states, tape

    def back(self, tape: Sequence[Moment], slopes: np.ndarray) -> list[np.ndarray]:
        """Return the gradients of the parameters, given those of the states (steps, n, hidden)."""
        weights, bias = np.zeros_like(self.weights), np.zeros_like(self.bias)
        state, cell = self.begin(slopes.shape[1])  # gradients that come from later steps
        for (joined, gates, before, squashed), slope in zip(reversed(tape), slopes[::-1], strict=True):
            opened, kept, shown, new = self._gates(gates)
            state = state + slope
            cell = cell + state * shown * (1 - squashed**2)
            raw = np.concatenate(
                [
                    cell * new * opened * (1 - opened),
                    cell * before * kept * (1 - kept),
                    state * squashed * shown * (1 - shown),
                    cell * opened * (1 - new**2),
                ],
                axis=1,
            )
            weights += joined.T @ raw
            bias += raw.sum(axis=0)
            state = raw @ self.weights[-self.hidden :].T
            cell = cell * kept
        return [weights, bias]
