"""What is decided where in a tree with placeholders: see :mod:`.placeholders` and :mod:`.program`.

A decision is known by the path of its placeholder in the whole tree, ``block.1.kernel``, and keeps that name when
others are decided before it.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from .choice import Choice, Option
from .placeholders import Placeholder, Symbolic, children, joined, rebuilt


@dataclass(frozen=True)
class Decision:
    """A placeholder of a tree, and where it lies.

    Attributes:
        placeholder: what is decided.
        choice: its name, which is its path, and its options.
        inside: for each placeholder around it, its path and those of its options that take the way to this one.
    """

    placeholder: Placeholder
    choice: Choice
    inside: tuple[tuple[str, frozenset[int]], ...]


def decisions(tree: Any) -> dict[str, Decision]:
    """Return all decisions of a tree by path, outer ones before those inside them."""
    found: dict[str, Decision] = {}

    def collect(value: Any, path: str, inside: tuple[tuple[str, frozenset[int]], ...]) -> None:
        if isinstance(value, Placeholder):
            found[path] = Decision(value, Choice(path, _options(value), ordered=value.ordered), inside)
        for at, (name, inner) in enumerate((children(value) or {}).items()):
            around = inside
            if isinstance(value, Placeholder):
                taking = frozenset(option for option, picked in enumerate(value.picks) if at in picked)
                around = (*inside, (path, taking))
            collect(inner, joined(path, name), around)

    collect(tree, "", ())
    return found


def count(value: Any, own: Collection[str], fixed: Mapping[str, int], path: str = "") -> int:
    """Return how many trees there are when ``own`` placeholders are decided in every way, and ``fixed`` as given.

    Args:
        value: the tree.
        own: paths.
        fixed: path to the position of an option.
        path: of ``value``.
    """

    def inside(name: str, part: Any) -> int:
        return count(part, own, fixed, joined(path, name))

    if isinstance(value, Placeholder) and (path in own or path in fixed):
        picks = [value.picks[fixed[path]]] if path in fixed else value.picks
        each = {at: inside(str(at), value.candidates[at]) for at in {at for picked in picks for at in picked}}
        return sum(math.prod(each[at] for at in set(picked)) for picked in picks)
    return math.prod(inside(name, part) for name, part in (children(value) or {}).items())


def decided(value: Any, options: Mapping[str, int], path: str = "") -> Any:
    """Return the tree with the placeholders at the paths of ``options`` decided; the others are left, as they are.

    Args:
        value: the tree.
        options: path to the position of the option.
        path: of ``value``.
    """

    def inside(name: str, part: Any) -> Any:
        return decided(part, options, joined(path, name))

    if isinstance(value, Placeholder) and path in options:
        taken = [inside(str(at), value.candidates[at]) for at in value.picks[options[path]]]
        return taken[0] if value.single else taken
    return rebuilt(value, inside)


def matched(
    pattern: Any, value: Any, own: Collection[str], fixed: Mapping[str, int], made: dict[str, int], path: str = ""
) -> bool:
    """Fill ``made`` with the options of ``own`` that turn ``pattern`` into ``value``; tell whether there are such.

    Args:
        pattern: the tree with all placeholders.
        value: a tree in which ``own`` and ``fixed`` ones are decided, and the others left.
        own: paths.
        fixed: path to the position of an option.
        made: path to the position of an option.
        path: of ``pattern``.
    """

    def inside(name: str, part: Any, given: Any, into: dict[str, int]) -> bool:
        return matched(part, given, own, fixed, into, joined(path, name))

    if isinstance(pattern, Placeholder) and (path in own or path in fixed):
        for option in [fixed[path]] if path in fixed else range(len(pattern.picks)):
            picked = pattern.picks[option]
            values = [value] if pattern.single else value
            if not isinstance(values, list) or len(values) != len(picked):
                continue
            trial: dict[str, int] = {} if path in fixed else {path: option}
            if all(
                inside(str(at), pattern.candidates[at], each, trial) for at, each in zip(picked, values, strict=True)
            ):
                made.update(trial)
                return True
        return False
    if isinstance(pattern, (Symbolic, Placeholder)) and type(pattern) is not type(value):
        return False
    if isinstance(value, (Symbolic, Placeholder)) and type(pattern) is not type(value):
        return False
    if isinstance(pattern, Symbolic) and pattern.target is not value.target:
        return False
    if isinstance(pattern, Placeholder) and pattern.picks != value.picks:
        return False
    parts, given = children(pattern), children(value)
    if parts is None or given is None:
        return bool(type(pattern) is type(value) and pattern == value)
    return parts.keys() == given.keys() and all(inside(name, parts[name], given[name], made) for name in parts)


def _options(placeholder: Placeholder) -> tuple[Option, ...]:
    """Return the candidates themselves where they are plain values, else their places and names."""
    if placeholder.labels:
        return placeholder.labels
    labels: list[Option] = []
    for at, candidate in enumerate(placeholder.candidates):
        plain = isinstance(candidate, (bool, int, float, str)) and candidate not in labels
        labels.append(candidate if plain else f"{at}:{_named(candidate)}")
    if placeholder.single:
        return tuple(labels)
    return tuple(tuple(labels[at] for at in picked) for picked in placeholder.picks)


def _named(candidate: Any) -> str:
    if isinstance(candidate, Symbolic):
        return str(getattr(candidate.target, "__name__", "call"))
    if isinstance(candidate, Placeholder):
        return "oneof" if candidate.single else "manyof"
    return str(getattr(candidate, "__name__", type(candidate).__name__))
