"""The neural predictor: a graph network learns from random networks, and picks the best of very many.

Some configs are drawn evenly and measured, a graph convolution network is fitted to them, it scores many more draws,
and the best by its score are measured; and again with what is known then.

The claim of the paper: more than 20 times the sample efficiency of regularised evolution on NAS-Bench-101.

The graph has a node per choice, whose kind is the option that it has, and an edge from each choice to the next, as
layers follow each other, or those of ``edges``. As published, three layers of 144 features send messages along the
adjacency matrix and its transpose, nodes are averaged, a dense layer of 128 follows, and Adam trains for 300 epochs
with a cosine schedule and ten graphs a batch. Where this implementation differs: the kind of a node also says which
choice it is; targets are standardised and errors squared; the paper's classifier that sorts out failures first is left
out; it fits once and measures the best K, while here the budget is not known, so it fits again for every ``top``;
several objectives are several outputs, those that can be computed are, and the best are the first predicted fronts.
"""

from __future__ import annotations

from dataclasses import dataclass
from random import Random
from typing import ClassVar

import numpy as np

from ...checks import WrongShapeError, unknown
from ...space import Config, Problem, Space
from ...technique import Paper, Proposer, Searcher
from ._arrays import generator, limits, pool
from ._batches import Batches
from ._graph_net import GraphNet
from ._standing import best


@dataclass(frozen=True)
class NeuralPredictor(Searcher):
    """Graph network predictor: random configs to learn from, then the best of many by its score.

    Attributes:
        first: random configs to learn from at the start; at least 2.
        top: best configs measured per fit.
        candidates: configs that are scored: the whole space where it is not larger.
        hidden: features per node.
        layers: rounds of messages.
        epochs: of training.
        edges: pairs of names of choices, from one to the next; a chain in the order of the space where empty.
    """

    first: int = 100
    top: int = 20
    candidates: int = 20_000
    hidden: int = 144
    layers: int = 3
    epochs: int = 300
    edges: tuple[tuple[str, str], ...] = ()

    paper: ClassVar[Paper] = Paper(
        "Wen, Liu, Li, Chen, Bender, Kindermans", 2019, "Neural Predictor for Neural Architecture Search", "1912.00848"
    )

    def __post_init__(self) -> None:
        sizes = (self.top, self.candidates, self.hidden, self.layers, self.epochs)
        if self.first < 2 or min(sizes) < 1:
            raise WrongShapeError(f"first is at least 2 and all other numbers at least 1, got {self!r}")
        if any(len(edge) != 2 for edge in self.edges):
            raise WrongShapeError(f"an edge is a pair of names of choices, got {self.edges!r}")

    def start(self, problem: Problem) -> Proposer:
        """Begin a search; ``problem.seed`` and the history decide every config.

        Raises:
            UnknownNameError: an edge names no choice; offers the nearest.
        """
        return _Rounds(self, problem)


def adjacency(space: Space, edges: tuple[tuple[str, str], ...]) -> np.ndarray:
    """Return the matrix (choices, choices) with a 1 for every edge; a chain where there are none."""
    names = [choice.name for choice in space.choices]
    matrix = np.eye(len(names), k=1)
    if edges:
        matrix = np.zeros((len(names), len(names)))
        for edge in edges:
            for name in edge:
                if name not in names:
                    raise unknown("choice (for an edge)", name, names)
            matrix[names.index(edge[0]), names.index(edge[1])] = 1
    return matrix


class _Rounds(Batches):
    def __init__(self, settings: NeuralPredictor, problem: Problem) -> None:
        super().__init__(problem)
        self._settings = settings
        self._edges = adjacency(problem.space, settings.edges)
        sizes = [len(choice.options) for choice in problem.space.choices]
        self._offsets = np.concatenate([[0], np.cumsum(sizes)]).astype(int)

    def plan(self, rng: Random, number: int) -> list[Config]:
        indices, values, violation = self.data()
        if len(indices) < 2 or not self.space.choices:
            return self.random(rng, self._settings.first if number == 0 else self._settings.top)
        array_rng = generator(rng)
        candidates = pool(self.space, self._settings.candidates, array_rng)
        predicted, broken = self.predicted(indices, values, violation, candidates, array_rng)
        order = best(predicted, broken)[: self._settings.top + len(self.told) + len(self.pending)]
        return self.unseen.of(self.space.configs(candidates[order]))[: self._settings.top]

    def predicted(
        self,
        indices: np.ndarray,
        values: np.ndarray,
        violation: np.ndarray,
        candidates: np.ndarray,
        rng: np.random.Generator,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Values (n, objectives) and violations (n,) of ``candidates``, learnt from what was measured."""
        learnt = [at for at in range(self.problem.objectives) if at not in self.problem.exact]
        measured = np.maximum(violation - limits(self.problem, indices), 0)
        targets = np.column_stack([values[:, learnt], *([measured] if measured.any() else [])])
        found = np.zeros((len(candidates), targets.shape[1]))
        if targets.shape[1]:
            middle, spread = targets.mean(axis=0), targets.std(axis=0)
            spread[spread == 0] = 1.0
            net = GraphNet(self._offsets[-1], targets.shape[1], self._settings.hidden, self._settings.layers, rng)
            net.fit(self._nodes(indices), self._edges, (targets - middle) / spread, self._settings.epochs, rng)
            found = net.predict(self._nodes(candidates), self._edges) * spread + middle
        broken = limits(self.problem, candidates)
        if measured.any():
            broken = broken + np.maximum(found[:, -1], 0)
        exact = self.problem.exact
        columns = [
            np.asarray(exact[at](candidates), dtype=float) if at in exact else found[:, learnt.index(at)]
            for at in range(self.problem.objectives)
        ]
        return np.stack(columns, axis=1), broken

    def _nodes(self, indices: np.ndarray) -> np.ndarray:
        """The kinds of the nodes (n, choices)."""
        return indices + self._offsets[:-1]
