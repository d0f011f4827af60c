"""Adam, for the small networks that searchers train in numpy."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

Gradient = Callable[[np.ndarray], "list[np.ndarray]"]
"""Rows of a minibatch (batch,) to the gradients of the parameters."""


class Adam:
    """Kingma and Ba (2015, arXiv 1412.6980), with decoupled weight decay (Loshchilov and Hutter, arXiv 1711.05101).

    Args:
        parameters: changed in place.
        rate: of learning.
        decay: share of the parameters, times the rate, that each step takes off.
    """

    def __init__(self, parameters: Sequence[np.ndarray], rate: float, decay: float = 0.0) -> None:
        self._parameters = list(parameters)
        self._rate = rate
        self._decay = decay
        self._steps = 0
        self._means = [np.zeros_like(each) for each in parameters]
        self._squares = [np.zeros_like(each) for each in parameters]

    def step(self, gradients: Sequence[np.ndarray], scale: float = 1.0) -> None:
        """Go one step against ``gradients``, one per parameter, at ``scale`` times the rate."""
        self._steps += 1
        rate = self._rate * scale * np.sqrt(1 - 0.999**self._steps) / (1 - 0.9**self._steps)
        groups = zip(self._parameters, gradients, self._means, self._squares, strict=True)
        for parameter, gradient, mean, square in groups:
            mean += 0.1 * (gradient - mean)
            square += 0.001 * (gradient**2 - square)
            parameter -= rate * mean / (np.sqrt(square) + 1e-8) + self._rate * scale * self._decay * parameter

    def fit(self, gradient: Gradient, rows: int, epochs: int, batch: int, rng: np.random.Generator) -> None:
        """Take steps on shuffled minibatches of ``rows`` rows, ``epochs`` times over, the rate falling as a cosine."""
        total, done = epochs * -(-rows // batch), 0
        for _ in range(epochs):
            order = rng.permutation(rows)
            for start in range(0, rows, batch):
                self.step(gradient(order[start : start + batch]), 0.5 * (1 + np.cos(np.pi * done / total)))
                done += 1
