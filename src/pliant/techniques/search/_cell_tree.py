"""A cell of a space as a tree that can be read: what of it is there, and where each choice is decided."""

from __future__ import annotations

import numpy as np

from ...space import Space
from ...space.trees import MEAN, PARTS, Node, Slot
from ._tree_lstm import ALONE, ORDERED, SUM, Reading, Topology

_MEAN, _PARTS, _SHARES, _OPEN = 0, 1, 2, 3
"""Tokens: of nodes whose branches are averaged, are parts of a layer, are parts of an input; and of an open edge."""

TOKENS = {"mean": _MEAN, "parts": _PARTS, "shares": _SHARES, "open": _OPEN}


class CellTree:
    """One cell of a space: its tree, its columns, and where each is decided.

    Args:
        root: the first node.
        space: its choices.
        tokens: of operations, by their names; they are extended.
    """

    def __init__(self, root: Node, space: Space, tokens: dict[str, int]) -> None:
        self.root, self._space = root, space
        self.nodes = list(root.nodes())
        self.slots: list[Slot] = [slot for node in self.nodes for slot in node.slots]
        number = {slot.name: at for at, slot in enumerate(self.slots)}
        above = {slot.then.name: number[slot.name] for slot in self.slots if slot.then is not None}
        self.topology = Topology(
            tuple(tuple(number[slot.name] for slot in node.slots) for node in self.nodes),
            tuple(above.get(node.name, -1) for node in self.nodes),
        )
        self.place: dict[int, int] = {}  # of a column: the slot on whose state it is decided
        for node in self.nodes:
            for column in (node.merge, node.count):
                if column is not None:
                    self.place[column] = number[node.slots[0].name]
        for at, slot in enumerate(self.slots):
            for column in (slot.operation, slot.grow):
                if column is not None:
                    self.place[column] = at
        self._layer = tokens.setdefault(f"layer {root.name}", len(tokens))
        self._tokens: dict[int, np.ndarray] = {}
        for slot in self.slots:
            if slot.operation is not None:
                names = [f"operation {option}" for option in space.choices[slot.operation].options]
                codes = [tokens.setdefault(name, len(tokens)) for name in names]
                self._tokens[slot.operation] = np.array([*codes, _OPEN])  # -1 is not decided

    def merges(self, node: Node, rows: np.ndarray) -> np.ndarray:
        """Return how the branches of ``node`` merge (n,) as far as ``rows`` (n, choices) say.

        As long as nobody knows how many are averaged, there is still one.
        """
        kinds = {MEAN: SUM, PARTS: ORDERED}
        codes = [kinds.get(str(option), ALONE) for option in self._space.choices[node.merge].options]
        found = np.array([*codes, ALONE])[rows[:, node.merge]]
        if node.count is None:
            return found
        return np.where((found == SUM) & (rows[:, node.count] < 0), ALONE, found)

    def counts(self, node: Node, rows: np.ndarray, merge: np.ndarray | None = None) -> np.ndarray:
        """Return how many branches ``node`` has (n,), if it is there; ``merge`` where :meth:`merges` is known."""
        kinds = self.merges(node, rows) if merge is None else merge
        numbers: np.ndarray = np.array(2)
        if node.count is not None:
            options = np.array([int(option) for option in self._space.choices[node.count].options])  # type: ignore[arg-type]
            numbers = options[rows[:, node.count]]
        return np.where(kinds == SUM, numbers, np.where(kinds == ORDERED, 2, 1))

    def reading(self, rows: np.ndarray) -> Reading:
        """Return what there is of the tree in ``rows`` (n, choices)."""
        merge = np.zeros((len(rows), len(self.nodes)), dtype=np.int64)
        edge = np.full((len(rows), len(self.slots)), self._layer)
        present = np.zeros(edge.shape, dtype=bool)
        for number, node in enumerate(self.nodes):
            after = self.topology.after[number]
            here = np.ones(len(rows), dtype=bool)
            if after >= 0:
                here = present[:, after] & self.grown(self.slots[after], rows)
            if not here.any():
                continue
            merge[:, number] = self.merges(node, rows)
            counts = self.counts(node, rows, merge[:, number])
            for at, slot in enumerate(self.topology.slots[number]):
                present[:, slot] = here & (at < counts)
                column = self.slots[slot].operation
                if column is not None:
                    edge[:, slot] = self._tokens[column][rows[:, column]]
        mark = np.where(merge == SUM, _MEAN, _SHARES)
        mark[:, 0] = np.where(merge[:, 0] == SUM, _MEAN, _PARTS)
        return Reading(merge, mark, edge, present)

    def grown(self, slot: Slot, rows: np.ndarray) -> np.ndarray:
        """Return where a node follows ``slot`` (n,), if that is there."""
        if slot.grow is None:
            return np.zeros(len(rows), dtype=bool)
        return np.array([*map(bool, self._space.choices[slot.grow].options), False])[rows[:, slot.grow]]
