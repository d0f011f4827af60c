"""A tree of long short-term memories, upwards and downwards, forward and backward, in numpy."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ._memory_cell import Inputs, MemoryCell

ALONE, SUM, ORDERED = 0, 1, 2
"""How a node's branches merge: there is one; they are alike whatever their order; or each has its place."""

UP, NODE, BESIDE, DOWN = 0, 1, 2, 3
"""Kinds of states: of a slot from below, of a node from below, of a slot from its siblings and above, and that with
its edge passed."""

Ref = tuple[int, int]
"""A state: its kind, and whose it is (a slot's, or a node's)."""

Refs = tuple[Ref, ...]
"""States whose sum is meant; of none it is zero."""

Memories = tuple[tuple[int, tuple[Refs, ...], Ref], ...]
"""Of each the kind, the states whose sums are, side by side, its key; and whose cell it is."""

_NOTHING: Inputs = (np.zeros(0), np.zeros(0), ())


@dataclass(frozen=True)
class Topology:
    """The largest tree there may be. Nodes and slots are numbered, outer ones first.

    Attributes:
        slots: of each node, its slots.
        after: of each node, the slot that it follows; -1 for the first.
    """

    slots: tuple[tuple[int, ...], ...]
    after: tuple[int, ...]

    @property
    def count(self) -> int:
        """How many slots there are."""
        return sum(map(len, self.slots))


@dataclass(frozen=True)
class Reading:
    """What is there of a tree, in several rows.

    Attributes:
        merge: of each node how its branches merge (n, nodes).
        mark: token of each node that has several branches (n, nodes).
        edge: token of each slot (n, slots).
        present: whether a slot is there (n, slots).
    """

    merge: np.ndarray
    mark: np.ndarray
    edge: np.ndarray
    present: np.ndarray


@dataclass(frozen=True)
class _Join:
    """A step of a cell from states to a state, in some rows; without a cell, a state is handed on.

    Attributes:
        rows: in which (m,).
        out: what is written.
        cell: which.
        token: what it reads (m,).
        context: the states whose sums are, side by side, its context; or the state that is handed on.
        memories: that it has.
    """

    rows: np.ndarray
    out: Ref
    cell: str
    token: np.ndarray
    context: tuple[Refs, ...]
    memories: Memories = ()


class TreeEncoder:
    """Reads a tree upwards, then downwards: each slot learns what is below it, and what is around it.

    Upwards, the states of a node's slots are merged, and pass the edge of the slot that the node follows. Downwards, a
    slot's siblings are merged with what its parent learnt from above, and that passes the slot's own edge.

    Args:
        tokens: how many different ones edges and nodes may have.
        width: of a token's embedding.
        hidden: of each direction's state.
        rng: draws the first weights.
    """

    def __init__(self, tokens: int, width: int, hidden: int, rng: np.random.Generator) -> None:
        self.hidden = hidden
        self.seen = rng.normal(0, 0.3, (tokens, width))
        shapes: dict[str, tuple[int, list[int]]] = {  # states in the context, and in the keys
            "up edge": (1, [1]),
            "up sum": (1, [1]),
            "up ordered": (2, [2, 2]),
            "down edge": (1, [1]),
            "down sum": (2, [2, 2]),  # a sibling, and the parent
            "down ordered": (3, [3, 3, 3]),
        }
        self.cells = {
            name: MemoryCell(width, context * hidden, [key * hidden for key in keys], hidden, rng)
            for name, (context, keys) in shapes.items()
        }

    @property
    def parameters(self) -> list[np.ndarray]:
        """What is trained, in the order of :meth:`back`."""
        return [self.seen, *(parameter for cell in self.cells.values() for parameter in cell.parameters)]

    def run(self, tree: Topology, reading: Reading) -> tuple[np.ndarray, Pass]:
        """Return what every slot knows (slots, n, 2 hidden), zero where it is not, and what :meth:`back` needs."""
        work = Pass(self, tree, reading)
        work.run()
        return np.concatenate([work.states[UP][0], work.states[DOWN][0]], axis=2), work

    def back(self, work: Pass, slopes: np.ndarray) -> list[np.ndarray]:
        """Return the gradients of the parameters, given those (slots, n, 2 hidden) of what :meth:`run` returned."""
        return work.back(slopes)


class Pass:
    """One reading of trees: the states that came of it, and the steps that led there.

    Args:
        encoder: reads.
        tree: what there may be.
        reading: what there is.
    """

    def __init__(self, encoder: TreeEncoder, tree: Topology, reading: Reading) -> None:
        self._encoder, self._tree, self._reading = encoder, tree, reading
        rows, size = len(reading.present), encoder.hidden
        counts = tree.count, len(tree.slots), tree.count, tree.count
        self.states = [np.zeros((2, count, rows, size)) for count in counts]  # of each kind: state and cell
        self._slots: dict[int, list[int]] = {}  # of each node that is anywhere, the slots that are anywhere
        self._tape: list[tuple[_Join, Inputs, tuple[np.ndarray, ...]]] = []

    def run(self) -> None:
        """Read upwards, then downwards."""
        there = set(np.flatnonzero(self._reading.present.any(axis=0)).tolist())
        nodes = [node for node, slots in enumerate(self._tree.slots) if slots[0] in there]
        self._slots = {node: [slot for slot in self._tree.slots[node] if slot in there] for node in nodes}
        below = {self._tree.after[node]: (NODE, node) for node in nodes}
        for node in reversed(nodes):
            for slot in self._slots[node]:
                self._edge("up edge", slot, [below[slot]] if slot in below else [])
            self._upwards(node)
        for node in nodes:
            self._downwards(node)

    def _edge(self, name: str, slot: int, source: list[Ref]) -> None:
        rows = np.flatnonzero(self._reading.present[:, slot])
        out = (UP if name == "up edge" else DOWN), slot
        memories = tuple((0, (tuple(source),), each) for each in source)
        self._apply(_Join(rows, out, name, self._reading.edge[rows, slot], (tuple(source),), memories))

    def _upwards(self, node: int) -> None:
        children = tuple((UP, slot) for slot in self._slots[node])
        for merge, rows in self._merges(node, self._slots[node][0]):
            mark, out = self._reading.mark[rows, node], (NODE, node)
            if merge == ALONE:
                self._apply(_Join(rows, out, "", mark, (children[:1],)))
            elif merge == SUM:
                alike = tuple((0, ((child,),), child) for child in children)
                self._apply(_Join(rows, out, "up sum", mark, (children,), alike))
            else:
                both = tuple((child,) for child in children[:2])
                ordered = tuple((at, both, child) for at, child in enumerate(children[:2]))
                self._apply(_Join(rows, out, "up ordered", mark, both, ordered))

    def _downwards(self, node: int) -> None:
        slots, above = self._slots[node], self._tree.after[node]
        parent: Refs = () if above < 0 else ((DOWN, above),)
        for at, slot in enumerate(slots):
            others = tuple((UP, other) for other in slots if other != slot)
            for merge, rows in self._merges(node, slot):
                mark, out = self._reading.mark[rows, node], (BESIDE, slot)
                if merge == ALONE:
                    self._apply(_Join(rows, out, "", mark, (parent,)))
                elif merge == SUM:
                    alike: Memories = tuple((0, (parent, (other,)), other) for other in others)
                    alike = (*alike, *((1, (parent, others), each) for each in parent))
                    self._apply(_Join(rows, out, "down sum", mark, (others, parent), alike))
                else:
                    around: tuple[Refs, ...] = ((), others[:1], parent) if at == 0 else (others[:1], (), parent)
                    ordered = tuple((1 - at, around, other) for other in others[:1])
                    ordered += tuple((2, around, each) for each in parent)
                    self._apply(_Join(rows, out, "down ordered", mark, around, ordered))
            self._edge("down edge", slot, [(BESIDE, slot)])

    def _merges(self, node: int, slot: int) -> list[tuple[int, np.ndarray]]:
        """Return the rows in which ``slot`` is there, by how its node merges."""
        merge = np.where(self._reading.present[:, slot], self._reading.merge[:, node], -1)
        found = [(kind, np.flatnonzero(merge == kind)) for kind in (ALONE, SUM, ORDERED)]
        return [(kind, rows) for kind, rows in found if len(rows)]

    # ---- steps -------------------------------------------------------------------------------------------------------
    def _sum(self, refs: Refs, rows: np.ndarray, part: int = 0) -> np.ndarray:
        found = np.zeros((len(rows), self._encoder.hidden))
        for kind, at in refs:
            found += self.states[kind][part, at, rows]
        return found

    def _beside(self, places: tuple[Refs, ...], rows: np.ndarray) -> np.ndarray:
        return np.concatenate([self._sum(refs, rows) for refs in places], axis=1)

    def _apply(self, join: _Join) -> None:
        if not len(join.rows):
            return
        rows, (kind, at) = join.rows, join.out
        if not join.cell:
            for part in range(2):
                self.states[kind][part, at, rows] = self._sum(join.context[0], rows, part)
            self._tape.append((join, _NOTHING, ()))
            return
        memories = [(of, self._beside(key, rows), self._sum((ref,), rows, 1)) for of, key, ref in join.memories]
        inputs = self._encoder.seen[join.token], self._beside(join.context, rows), memories
        state, cell, kept = self._encoder.cells[join.cell].step(*inputs)
        self.states[kind][0, at, rows], self.states[kind][1, at, rows] = state, cell
        self._tape.append((join, inputs, kept))

    def back(self, slopes: np.ndarray) -> list[np.ndarray]:
        """Return the gradients of the parameters, given those (slots, n, 2 hidden) of what the slots know."""
        size = self._encoder.hidden
        back = [np.zeros_like(each) for each in self.states]
        back[UP][0], back[DOWN][0] = slopes[:, :, :size], slopes[:, :, size:]
        seen = np.zeros_like(self._encoder.seen)
        found = {name: [np.zeros_like(each) for each in cell.parameters] for name, cell in self._encoder.cells.items()}

        def spread(places: tuple[Refs, ...], slope: np.ndarray, rows: np.ndarray) -> None:
            for number, refs in enumerate(places):
                for kind, at in refs:
                    back[kind][0, at, rows] += slope[:, number * size : (number + 1) * size]

        for join, inputs, kept in reversed(self._tape):
            rows, (kind, at) = join.rows, join.out
            state, cell = back[kind][0, at, rows], back[kind][1, at, rows]
            if not join.cell:
                spread(join.context, state, rows)
                for ref_kind, ref in join.context[0]:
                    back[ref_kind][1, ref, rows] += cell
                continue
            token, context, memories = self._encoder.cells[join.cell].back(
                inputs, kept, (state, cell), found[join.cell]
            )
            np.add.at(seen, join.token, token)
            spread(join.context, context, rows)
            for (_, key, (ref_kind, ref)), (to_key, to_cell) in zip(join.memories, memories, strict=True):
                spread(key, to_key, rows)
                back[ref_kind][1, ref, rows] += to_cell
        return [seen, *(each for part in found.values() for each in part)]
