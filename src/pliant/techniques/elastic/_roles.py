"""Layers that play the same role: equal names but for the numbers of layers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeVar


class _Part(Protocol):
    @property
    def name(self) -> str: ...

    @property
    def kind(self) -> str: ...


P = TypeVar("P", bound=_Part)


def roles(parts: Sequence[P], size: Callable[[P], Any]) -> dict[str, list[P]]:
    """Group axes or sites whose names differ in numbers only, of one kind and size; numbers that differ become ``*``.

    Where two groups would have one name, the size is added to it: ``layers.*.mlp.width.64``.
    """
    groups: dict[tuple[Any, ...], list[P]] = {}
    for part in parts:
        form = tuple("*" if word.isdigit() else word for word in part.name.split("."))
        groups.setdefault((form, part.kind, size(part)), []).append(part)
    names = []
    for group in groups.values():
        columns = zip(*(part.name.split(".") for part in group), strict=True)
        names.append(".".join(column[0] if len(set(column)) == 1 else "*" for column in columns))
    found: dict[str, list[P]] = {}
    for name, group in zip(names, groups.values(), strict=True):
        found[name if names.count(name) == 1 else f"{name}.{size(group[0])}"] = group
    return found
