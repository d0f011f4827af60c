"""A policy that reads a cell as it is so far, and decides what grows on it next."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from ...space import Space
from ...space.trees import MEAN, Node, trees
from ._cell_tree import TOKENS, CellTree
from ._tree_lstm import Pass, TreeEncoder


@dataclass(frozen=True)
class Steps:
    """Decisions that were taken, one row each, and what they were taken on.

    Attributes:
        rows: option indices as they were known before (n, choices); -1 where nothing was decided yet.
        made: those that were decided at this step (n, choices); -1 elsewhere.
        tree: number of the cell that was read (n,); -1 for what is in none.
    """

    rows: np.ndarray
    made: np.ndarray
    tree: np.ndarray

    @classmethod
    def joined(cls, parts: Sequence[Steps]) -> Steps:
        """Return all decisions of ``parts``, at least one, in a row."""
        columns = zip(*((each.rows, each.made, each.tree) for each in parts), strict=True)
        return cls(*(np.concatenate(column) for column in columns))


class _Head:
    """What one kind of decision is taken with, wherever it is taken: a softmax over the options of all its choices."""

    def __init__(self, width: int, options: Iterable[str], rng: np.random.Generator) -> None:
        self.options = {option: at for at, option in enumerate(dict.fromkeys(options))}
        self.weight, self.bias = rng.normal(0, 0.1, (width, len(self.options))), np.zeros(len(self.options))


class TreePolicy:
    """Decides the cells of a space by what a tree of memories reads on them; and the other choices, each on its own.

    Args:
        space: its choices, and the options that the constraints allow.
        hidden: size of each direction's state.
        rng: draws the first weights: nearly even.
    """

    def __init__(self, space: Space, hidden: int, rng: np.random.Generator) -> None:
        tokens = dict(TOKENS)
        self.space, self.allowed = space, space.allowed()
        self.cells = [CellTree(root, space, tokens) for root in trees(space.choices)]
        in_cells = {column for cell in self.cells for column in cell.place}
        self.loose = [column for column in range(len(space.choices)) if column not in in_cells]
        self.encoder = TreeEncoder(len(tokens), hidden, hidden, rng)
        self._heads: dict[str, _Head] = {}
        self._outputs: dict[
            int, tuple[str, np.ndarray]
        ] = {}  # of a column: its head, and which outputs are its options
        kinds: dict[str, list[int]] = {}
        for column in sorted(in_cells):
            kinds.setdefault(space.choices[column].name.rpartition(".")[2], []).append(column)
        for kind, columns in sorted(kinds.items()):
            names = {column: list(map(str, space.choices[column].options)) for column in columns}
            head = self._heads[kind] = _Head(2 * hidden, (each for column in columns for each in names[column]), rng)
            for column in columns:
                self._outputs[column] = kind, np.array([head.options[name] for name in names[column]])
        self.alone = [np.zeros(len(space.choices[column].options)) for column in self.loose]

    @property
    def parameters(self) -> list[np.ndarray]:
        """What is trained, in the order of :meth:`gradient`."""
        heads = [each for head in self._heads.values() for each in (head.weight, head.bias)]
        return [*self.encoder.parameters, *heads, *self.alone]

    def _chances(self, column: int, states: np.ndarray) -> np.ndarray:
        """Return the probability of each option of ``column`` (n, options), from the states (n, 2 hidden) it is on."""
        if column in self._outputs:
            kind, outputs = self._outputs[column]
            head = self._heads[kind]
            logits = states @ head.weight[:, outputs] + head.bias[outputs]
        else:
            logits = np.tile(self.alone[self.loose.index(column)], (len(states), 1))
        out = np.ones(logits.shape[1], dtype=bool)
        out[self.allowed[column]] = False
        logits[:, out] = -np.inf
        shifted = np.exp(logits - logits.max(axis=1, keepdims=True))
        return shifted / shifted.sum(axis=1, keepdims=True)

    # ---- drawing -----------------------------------------------------------------------------------------------------
    def sample(self, rng: np.random.Generator) -> tuple[np.ndarray, Steps]:
        """Return the option indices of a drawn config (choices,), and the decisions that led there.

        What does not matter has the first option that is allowed.
        """
        row = np.full(len(self.space.choices), -1)
        steps: list[Steps] = []
        self._decide(row, -1, self.loose, steps, rng)
        for number, cell in enumerate(self.cells):
            self._grow(cell, number, cell.root, row, steps, rng)
        first = np.array([options[0] for options in self.allowed], dtype=np.int64)
        return np.where(row < 0, first, row), Steps.joined(steps)

    def _decide(
        self, row: np.ndarray, tree: int, columns: Sequence[int], steps: list[Steps], rng: np.random.Generator
    ) -> None:
        """Decide ``columns``, in place, on one reading of what is decided before."""
        before, made = row[None].copy(), np.full((1, len(row)), -1)
        outlooks = np.zeros((0, 1, 0))
        if tree >= 0:
            outlooks, _ = self.encoder.run(self.cells[tree].topology, self.cells[tree].reading(before))
        for column in columns:
            states = outlooks[self.cells[tree].place[column]] if tree >= 0 else np.zeros((1, 0))
            allowed = self.allowed[column]
            chances = self._chances(column, states)[0, allowed].cumsum()
            row[column] = made[0, column] = allowed[min(int((chances < rng.random()).sum()), len(allowed) - 1)]
        steps.append(Steps(before, made, np.array([tree])))

    def _grow(
        self, cell: CellTree, number: int, node: Node, row: np.ndarray, steps: list[Steps], rng: np.random.Generator
    ) -> None:
        """Decide ``node`` and what follows it, in place: how it parts, its operations, and where it goes on."""
        self._decide(row, number, [node.merge], steps, rng)
        if node.count is not None and self.space.choices[node.merge].options[row[node.merge]] == MEAN:
            self._decide(row, number, [node.count], steps, rng)
        slots = node.slots[: int(cell.counts(node, row[None])[0])]
        for slot in slots:
            if slot.operation is not None:
                self._decide(row, number, [slot.operation], steps, rng)
        for slot in slots:
            if slot.grow is not None and slot.then is not None:
                self._decide(row, number, [slot.grow], steps, rng)
                if cell.grown(slot, row[None])[0]:
                    self._grow(cell, number, slot.then, row, steps, rng)

    # ---- learning ----------------------------------------------------------------------------------------------------
    def log_chances(self, steps: Steps) -> np.ndarray:
        """Return the logarithm of the probability (n,) of each step, given what was known before it."""
        found = np.zeros(len(steps.rows))
        for _, rows, outlooks, _ in self._readings(steps):
            for column, these, states in self._decided(steps, rows, outlooks):
                chances = self._chances(column, states)
                found[rows[these]] += np.log(chances[np.arange(len(these)), steps.made[rows[these], column]])
        return found

    def entropies(self, steps: Steps) -> np.ndarray:
        """Return the sum (n,) of the entropies of the decisions of each step."""
        found = np.zeros(len(steps.rows))
        for _, rows, outlooks, _ in self._readings(steps):
            for column, these, states in self._decided(steps, rows, outlooks):
                chances = self._chances(column, states)
                found[rows[these]] -= (chances * np.log(np.maximum(chances, 1e-300))).sum(axis=1)
        return found

    def gradient(self, steps: Steps, weights: np.ndarray, entropy: float = 0.0) -> list[np.ndarray]:
        """Return the gradients of ``sum(weights * log_chances(steps)) + entropy * sum(entropies(steps))``.

        Args:
            steps: n decisions.
            weights: (n,).
            entropy: of the bonus for what is undecided.
        """
        encoder = [np.zeros_like(each) for each in self.encoder.parameters]
        heads = {kind: (np.zeros_like(head.weight), np.zeros_like(head.bias)) for kind, head in self._heads.items()}
        alone = [np.zeros_like(each) for each in self.alone]
        for cell, rows, outlooks, work in self._readings(steps):
            back = np.zeros_like(outlooks)
            for column, these, states in self._decided(steps, rows, outlooks):
                slope = self._slope(column, states, steps.made[rows[these], column], weights[rows[these]], entropy)
                if cell is None:
                    alone[self.loose.index(column)] += slope.sum(axis=0)
                    continue
                kind, outputs = self._outputs[column]
                heads[kind][0][:, outputs] += states.T @ slope
                heads[kind][1][outputs] += slope.sum(axis=0)
                back[cell.place[column], these] += slope @ self._heads[kind].weight[:, outputs].T
            if work is not None:
                for total, part in zip(encoder, work.back(back), strict=True):
                    total += part
        return [*encoder, *(each for pair in heads.values() for each in pair), *alone]

    def _slope(
        self, column: int, states: np.ndarray, made: np.ndarray, weights: np.ndarray, entropy: float
    ) -> np.ndarray:
        """Return the gradient of the logits (n, options) of ``column``."""
        chances = self._chances(column, states)
        slope = -weights[:, None] * chances
        slope[np.arange(len(made)), made] += weights
        logs = np.log(np.maximum(chances, 1e-300))
        return np.asarray(slope - entropy * chances * (logs - (chances * logs).sum(axis=1, keepdims=True)))

    def _readings(self, steps: Steps) -> Iterator[tuple[CellTree | None, np.ndarray, np.ndarray, Pass | None]]:
        """Yield for each cell that steps were taken on: it, which steps, what its slots know, and how that came."""
        for tree in np.unique(steps.tree):
            rows = np.flatnonzero(steps.tree == tree)
            if tree < 0:
                yield None, rows, np.zeros((0, len(rows), 0)), None
            else:
                cell = self.cells[tree]
                outlooks, work = self.encoder.run(cell.topology, cell.reading(steps.rows[rows]))
                yield cell, rows, outlooks, work

    def _decided(
        self, steps: Steps, rows: np.ndarray, outlooks: np.ndarray
    ) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
        """Yield each column that was decided in ``rows``: in which of them, and the states that it was decided on."""
        for column in np.flatnonzero((steps.made[rows] >= 0).any(axis=0)).tolist():
            these = np.flatnonzero(steps.made[rows, column] >= 0)
            if column in self._outputs:
                place = self.cells[int(steps.tree[rows[0]])].place[column]
                yield column, these, outlooks[place, these]
            else:
                yield column, these, np.zeros((len(these), 0))
