"""Names that differ in one number told as one: ``blocks.0.mlp`` … ``blocks.11.mlp`` become ``blocks.0-11.mlp``."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass

_Part = str | tuple[int, ...]
_Row = tuple[tuple[_Part, ...], Hashable, tuple[int, ...]]


@dataclass(frozen=True)
class Folded:
    """A name that stands for the items at the places ``items`` of what was folded."""

    name: str
    items: tuple[int, ...]


def fold(rows: Iterable[tuple[str, Hashable]]) -> list[Folded]:
    """Fold dotted names: those with equal second entries that differ in one number only become one, in order.

    A folded name stands for every combination of its numbers, so that nothing is claimed that is not there.
    """
    groups: list[_Row] = [
        (tuple((int(p),) if p.isdecimal() else p for p in name.split(".")), like, (i,))
        for i, (name, like) in enumerate(rows)
    ]
    for place in reversed(range(max((len(parts) for parts, _, _ in groups), default=0))):
        merged: dict[Hashable, list[int]] = {}
        for at, (parts, like, _) in enumerate(groups):
            number = place < len(parts) and isinstance(parts[place], tuple)
            key = (parts[:place], parts[place + 1 :], like) if number else at
            merged.setdefault(key, []).append(at)
        groups = [_merged([groups[at] for at in ats], place) for ats in merged.values()]
    return [Folded(".".join(map(_said, parts)), items) for parts, _, items in groups]


def _merged(rows: Sequence[_Row], place: int) -> _Row:
    parts, like, items = rows[0]
    if len(rows) > 1:
        numbers = tuple(sorted({n for row, _, _ in rows for n in row[place] if isinstance(n, int)}))
        parts = (*parts[:place], numbers, *parts[place + 1 :])
        items = tuple(sorted(i for _, _, some in rows for i in some))
    return parts, like, items


def _said(part: _Part) -> str:
    if isinstance(part, str):
        return part
    runs: list[list[int]] = []
    for number in part:
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return ",".join(str(a) if a == b else f"{a}-{b}" for a, b in runs)


def folded_names(names: Iterable[str]) -> list[str]:
    """Return ``names`` folded, in order."""
    return [row.name for row in fold((name, None) for name in names)]
