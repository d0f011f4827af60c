"""A multilayer perceptron in numpy whose first layers can be learnt from one target and used for another."""

from __future__ import annotations

import itertools

import numpy as np

from ._adam import Adam

_BATCH = 32


class Perceptron:
    """Dense layers with rectifiers between them, trained on Huber's loss.

    Args:
        sizes: features, hidden layers, outputs.
        rng: draws the first weights.
    """

    def __init__(self, sizes: tuple[int, ...], rng: np.random.Generator) -> None:
        self.weights = [
            rng.normal(0, np.sqrt(2 / max(rows, 1)), (rows, columns)) for rows, columns in itertools.pairwise(sizes)
        ]
        self.biases = [np.zeros(columns) for columns in sizes[1:]]

    @property
    def parameters(self) -> list[np.ndarray]:
        """What is trained, in the order of :meth:`gradient`."""
        return [*self.weights, *self.biases]

    def predict(self, features: np.ndarray) -> np.ndarray:
        """Return the outputs (n, outputs) of ``features`` (n, features)."""
        return self._states(features)[-1]

    def _states(self, features: np.ndarray) -> list[np.ndarray]:
        states = [features]
        for at, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            made = states[-1] @ weight + bias
            states.append(np.maximum(made, 0) if at + 1 < len(self.weights) else made)
        return states

    def gradient(self, features: np.ndarray, targets: np.ndarray) -> tuple[float, list[np.ndarray]]:
        """Return the mean of Huber's loss against ``targets`` (n, outputs), and its gradients by the parameters."""
        states = self._states(features)
        error = states[-1] - targets
        clipped = np.clip(error, -1, 1)
        slope = clipped / error.size
        weights, biases = [], []
        for at in reversed(range(len(self.weights))):
            weights.append(states[at].T @ slope)
            biases.append(slope.sum(axis=0))
            slope = slope @ self.weights[at].T * (states[at] > 0)
        loss = float((clipped * (error - clipped / 2)).mean())
        return loss, [*reversed(weights), *reversed(biases)]

    def fit(
        self, features: np.ndarray, targets: np.ndarray, epochs: int, rng: np.random.Generator, frozen: int = 0
    ) -> None:
        """Train on ``targets`` (n, outputs); the first ``frozen`` layers stay as they are."""
        layers = len(self.weights)
        trained = [at for at in range(2 * layers) if at % layers >= frozen]
        adam = Adam([self.parameters[at] for at in trained], rate=3e-3, decay=1e-3)

        def gradient(rows: np.ndarray) -> list[np.ndarray]:
            found = self.gradient(features[rows], targets[rows])[1]
            return [found[at] for at in trained]

        adam.fit(gradient, len(features), epochs, _BATCH, rng)

    def reheaded(self, outputs: int, rng: np.random.Generator) -> Perceptron:
        """Return a copy with a last layer that has learnt nothing."""
        sizes = (*(len(weight) for weight in self.weights), outputs)
        made = Perceptron(sizes, rng)
        made.weights[:-1] = [weight.copy() for weight in self.weights[:-1]]
        made.biases[:-1] = [bias.copy() for bias in self.biases[:-1]]
        return made
