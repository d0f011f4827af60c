"""A graph convolution network in numpy, with its gradient."""

from __future__ import annotations

import numpy as np

from ._adam import Adam

_DENSE = 128


class GraphNet:
    """Predicts numbers of a graph whose nodes have kinds.

    A layer sends messages along the edges and against them, with weights of their own: half the rectified sum of the
    one, half that of the other, each over the neighbours and the node itself. Nodes are averaged, and two dense layers
    follow. A prediction does not depend on how the nodes are numbered.

    Args:
        kinds: how many kinds of nodes there are.
        outputs: how many numbers to predict.
        hidden: features of a node.
        layers: of messages.
        rng: draws the first weights.
    """

    def __init__(self, kinds: int, outputs: int, hidden: int, layers: int, rng: np.random.Generator) -> None:
        def drawn(rows: int, columns: int, fan: int) -> np.ndarray:
            return rng.normal(0, np.sqrt(2 / max(fan, 1)), (rows, columns))

        self.along = [drawn(hidden if at else kinds, hidden, hidden) for at in range(layers)]
        self.against = [drawn(hidden if at else kinds, hidden, hidden) for at in range(layers)]
        self.dense = [drawn(hidden, _DENSE, hidden), np.zeros(_DENSE)]
        self.last = [drawn(_DENSE, outputs, _DENSE) / 2, np.zeros(outputs)]

    @property
    def parameters(self) -> list[np.ndarray]:
        """What is trained, in the order of :meth:`gradient`."""
        return [*self.along, *self.against, *self.dense, *self.last]

    def predict(self, nodes: np.ndarray, edges: np.ndarray) -> np.ndarray:
        """Return the outputs (n, outputs) of graphs of the kinds ``nodes`` (n, nodes) and ``edges`` (nodes, nodes)."""
        chunks = np.array_split(nodes, max(1, len(nodes) // 512))
        return np.concatenate([self._forward(chunk, *directions(edges))[-1] for chunk in chunks])

    def _forward(self, nodes: np.ndarray, out: np.ndarray, back: np.ndarray) -> list[np.ndarray]:
        """What each layer makes of it: per message layer its input and both sums, then the dense layers' values."""
        kept: list[np.ndarray] = []
        state = nodes
        for at, (along, against) in enumerate(zip(self.along, self.against, strict=True)):
            there = out @ (along[state] if at == 0 else state @ along)  # kinds pick rows: a product with one-hot rows
            here = back @ (against[state] if at == 0 else state @ against)
            kept += [state, there, here]
            state = 0.5 * np.maximum(there, 0) + 0.5 * np.maximum(here, 0)
        mean = state.mean(axis=1)
        dense = mean @ self.dense[0] + self.dense[1]
        return [*kept, mean, dense, np.maximum(dense, 0) @ self.last[0] + self.last[1]]

    def gradient(self, nodes: np.ndarray, edges: np.ndarray, targets: np.ndarray) -> tuple[float, list[np.ndarray]]:
        """Return the mean squared error against ``targets`` (n, outputs), and its gradients by the parameters."""
        out, back = directions(edges)
        *kept, mean, dense, found = self._forward(nodes, out, back)
        error = found - targets
        slope = 2 * error / error.size
        active = np.maximum(dense, 0)
        last = [active.T @ slope, slope.sum(axis=0)]
        slope = slope @ self.last[0].T * (dense > 0)
        first = [mean.T @ slope, slope.sum(axis=0)]
        down = np.repeat((slope @ self.dense[0].T)[:, None] / nodes.shape[1], nodes.shape[1], axis=1)
        along, against = [], []
        for at in reversed(range(len(self.along))):
            state, there, here = kept[3 * at : 3 * at + 3]
            there, here = out.T @ (0.5 * down * (there > 0)), back.T @ (0.5 * down * (here > 0))
            if at == 0:
                along.append(_rows(state, there, len(self.along[0])))
                against.append(_rows(state, here, len(self.against[0])))
            else:
                along.append(_product(state, there))
                against.append(_product(state, here))
                down = there @ self.along[at].T + here @ self.against[at].T
        return float((error**2).mean()), [*reversed(along), *reversed(against), *first, *last]

    def fit(
        self, nodes: np.ndarray, edges: np.ndarray, targets: np.ndarray, epochs: int, rng: np.random.Generator
    ) -> None:
        """Train on ``targets`` (n, outputs), ten graphs at a time."""
        adam = Adam(self.parameters, rate=1e-3, decay=1e-3)
        adam.fit(lambda rows: self.gradient(nodes[rows], edges, targets[rows])[1], len(nodes), epochs, 10, rng)


def _product(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Sum over graphs and nodes of the outer products of their features, (hidden, hidden)."""
    return np.asarray(left.reshape(-1, left.shape[2]).T @ right.reshape(-1, right.shape[2]))


def _rows(kinds: np.ndarray, values: np.ndarray, count: int) -> np.ndarray:
    """Sum ``values`` (n, nodes, hidden) by kind (count, hidden)."""
    from scipy.sparse import csr_array

    ones, places = np.ones(kinds.size), np.arange(kinds.size)
    return np.asarray(
        csr_array((ones, (kinds.ravel(), places)), shape=(count, kinds.size)) @ values.reshape(kinds.size, -1)
    )


def directions(edges: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return ``edges`` and their transpose (nodes, nodes), each with the node itself and rows that sum to one."""
    both = edges + np.eye(len(edges)), edges.T + np.eye(len(edges))
    return both[0] / both[0].sum(axis=1, keepdims=True), both[1] / both[1].sum(axis=1, keepdims=True)
