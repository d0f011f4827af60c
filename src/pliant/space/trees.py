"""Cells that are trees, as choices: branches in branches, an operation on each, some of which are not there.

In the place of a layer stands a *node*: the layer itself, copies of it whose results are averaged, or parts of it whose
results are concatenated. After each of these branches another node may follow; its branches hold operations, and after
each of those a node may follow again, down to a depth that is fixed (Cai, Yang, Zhang, Han and Yu, 2018, Path-Level
Network Transformation for Efficient Architecture Search, arXiv 1806.02639). The choices of the cell at a place ``P``:

- ``P.merge``: :data:`ONE`, :data:`MEAN` or :data:`PARTS`;
- ``P.count``: how many branches are averaged; it matters for the mean alone (parts are two);
- ``P.branches.0.operation``, ``.1`` …: what is on the branch; not of the layer's own copies;
- ``P.branches.0.grow``: whether a node follows, which is at ``P.branches.0.then``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from .choice import Choice, Option

ONE, MEAN, PARTS = "one", "mean", "parts"
"""What may stand in the place of a layer: itself, copies that are averaged, or parts of its outputs."""

IDENTITY = "identity"
"""The operation that is on every branch before another is."""

Around = tuple[tuple[int, frozenset[int]], ...]
"""For each choice that decides whether something is there: its column, and the options with which it is."""


@dataclass(frozen=True)
class Slot:
    """A branch of a node.

    Attributes:
        name: of its place, such as ``"features.3.branches.0"``.
        operation: column of the choice of what is on it; ``None`` where it is the layer's own copy.
        grow: column of the choice whether a node follows; ``None`` where none can.
        then: that node.
    """

    name: str
    operation: int | None
    grow: int | None
    then: Node | None


@dataclass(frozen=True)
class Node:
    """A place at which branches part and merge.

    Attributes:
        name: of its place.
        merge: column of the choice of how.
        count: column of the choice of how many are averaged; ``None`` where it is always two.
        slots: the branches; of one, or of parts, only the first, or the first two, are there.
    """

    name: str
    merge: int
    count: int | None
    slots: tuple[Slot, ...]

    def nodes(self) -> Iterator[Node]:
        """Yield this node and all that may follow, outer ones before inner ones."""
        yield self
        for slot in self.slots:
            if slot.then is not None:
                yield from slot.then.nodes()

    def branches(self, config: Mapping[str, Option]) -> int:
        """Return how many branches the node has in ``config``, if it is there."""
        if config[f"{self.name}.merge"] == MEAN:
            return 2 if self.count is None else _number(config[f"{self.name}.count"])
        return 1 if config[f"{self.name}.merge"] == ONE else 2


def tree_choices(
    place: str, merges: Sequence[Sequence[str]], operations: Sequence[str], most: int, depth: int = 0
) -> list[Choice]:
    """Return the choices of a cell.

    Args:
        place: of the layer.
        merges: how branches may merge, :data:`ONE` the first, in the layer's node, in those after it, and so on to the
            last that there may be.
        operations: that branches may have, :data:`IDENTITY` the first.
        most: branches that are averaged, at least 2.
        depth: nodes on the way to this place.
    """
    found = [Choice(f"{place}.merge", tuple(merges[depth]), ordered=False)]
    if most > 2:
        found.append(Choice(f"{place}.count", tuple(range(2, most + 1))))
    for at in range(most):
        slot = f"{place}.branches.{at}"
        if depth:
            found.append(Choice(f"{slot}.operation", tuple(operations), ordered=False))
        if depth + 1 < len(merges):
            found.append(Choice(f"{slot}.grow", (False, True)))
            found += tree_choices(f"{slot}.then", merges, operations, most, depth + 1)
    return found


def trees(choices: Sequence[Choice]) -> list[Node]:
    """Return the first nodes of all cells that are among ``choices``, read from their names."""
    columns = {choice.name: at for at, choice in enumerate(choices)}
    found = []
    for choice in choices:
        place, _, role = choice.name.rpartition(".")
        known = choice.options[0] == ONE and all(option in (ONE, MEAN, PARTS) for option in choice.options)
        if role == "merge" and place and known and not place.endswith(".then"):
            found.append(_node(place, choices, columns))
    return found


def _node(place: str, choices: Sequence[Choice], columns: Mapping[str, int]) -> Node:
    count = columns.get(f"{place}.count")
    slots = []
    for at in range(2 if count is None else max(map(_number, choices[count].options))):
        name = f"{place}.branches.{at}"
        grow = columns.get(f"{name}.grow")
        then = None if grow is None else _node(f"{name}.then", choices, columns)
        slots.append(Slot(name, columns.get(f"{name}.operation"), grow, then))
    return Node(place, columns[f"{place}.merge"], count, tuple(slots))


def conditions(node: Node, choices: Sequence[Choice], around: Around = ()) -> dict[int, Around]:
    """Return for each column of a cell what decides whether it matters."""
    merge = [str(option) for option in choices[node.merge].options]
    found: dict[int, Around] = {node.merge: around}
    if node.count is not None:
        found[node.count] = (*around, (node.merge, _places(merge, {MEAN})))
    for at, slot in enumerate(node.slots):
        here = around
        if at == 1:
            here = (*around, (node.merge, _places(merge, {MEAN, PARTS})))
        elif at > 1 and node.count is not None:
            numbers = choices[node.count].options
            enough = frozenset(place for place, number in enumerate(numbers) if _number(number) > at)
            here = (*around, (node.merge, _places(merge, {MEAN})), (node.count, enough))
        for column in (slot.operation, slot.grow):
            if column is not None:
                found[column] = here
        if slot.then is not None and slot.grow is not None:
            found |= conditions(slot.then, choices, (*here, (slot.grow, frozenset({1}))))
    return found


def _places(options: Sequence[str], wanted: set[str]) -> frozenset[int]:
    return frozenset(at for at, option in enumerate(options) if option in wanted)


def _number(option: Option) -> int:
    return int(option)  # type: ignore[arg-type]
