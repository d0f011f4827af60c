"""Which techniques there are, found by their files: nothing is imported until it is asked for.

A file ``techniques/<kind>/<snake_name>.py`` holds the class of the same name in CamelCase (``low_rank.py`` holds
``LowRank``; ``nsga2.py`` holds ``NSGA2``). Files that begin with an underscore are helpers. Another distribution adds
its own through the entry-point group ``pliant.techniques``, with names of the form ``kind.snake_name``.
"""

from __future__ import annotations

import pkgutil
import re
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path

from .checks import PliantError, unknown
from .technique import Technique

GROUP = "pliant.techniques"
_FOLDER = Path(__file__).parent / "techniques"
_CLASS = re.compile(r"^class (\w+)", re.MULTILINE)


@dataclass(frozen=True)
class Place:
    """Where a technique is: its kind, its snake-case name, and the entry point if it is not our own file."""

    kind: str
    name: str
    entry: EntryPoint | None = None


@dataclass(frozen=True)
class Entry:
    """One row of the table of systems."""

    name: str
    kind: str
    paper: str
    summary: str


def fold(name: str) -> str:
    """Return ``name`` without underscores and in lower case: equal for a file and its class."""
    return name.replace("_", "").lower()


def _modules(folder: Path) -> list[pkgutil.ModuleInfo]:
    found = (module for module in pkgutil.iter_modules([str(folder)]) if not module.name.startswith("_"))
    return sorted(found, key=lambda module: module.name)


@cache
def _places() -> dict[str, Place]:
    """Return folded name to place, for our own files and then the entry points."""
    found: dict[str, Place] = {}
    for kind in kinds():
        for module in _modules(_FOLDER / kind):
            _add(found, Place(kind, module.name))
    for entry in sorted(entry_points(group=GROUP), key=lambda entry: entry.name):
        kind, _, name = entry.name.partition(".")
        if not name:
            raise PliantError(
                f"the entry point {entry.name!r} = {entry.value!r} of group {GROUP!r} has no kind; name it "
                f"'<kind>.{entry.name}', e.g. 'search.{entry.name}'"
            )
        _add(found, Place(kind, name, entry))
    return found


def _add(found: dict[str, Place], place: Place) -> None:
    other = found.setdefault(fold(place.name), place)
    if other is not place:
        raise PliantError(
            f"two techniques are named {place.name!r}: one of kind {other.kind!r} and one of kind {place.kind!r}; "
            "rename one of them"
        )


def kinds() -> list[str]:
    """Return the kinds of techniques, sorted: the folders under ``techniques/``."""
    return [module.name for module in _modules(_FOLDER) if module.ispkg]


def names(kind: str | None = None) -> list[str]:
    """Return the snake-case names of all techniques, or of one kind, sorted. Imports none of them.

    Raises:
        UnknownNameError: if there is no such kind.
    """
    places = _places().values()
    known = {place.kind for place in places} | set(kinds())
    if kind is not None and kind not in known:
        raise unknown("kind of technique", kind, known)
    return sorted(place.name for place in places if kind in (None, place.kind))


def classes() -> list[str]:
    """Return the class names of all techniques, sorted, read from their files. Imports none of them."""
    found = []
    for place in _places().values():
        if place.entry is not None:
            found.append(place.entry.attr or place.name)
            continue
        text = (_FOLDER / place.kind / f"{place.name}.py").read_text(encoding="utf-8")
        found += [name for name in _CLASS.findall(text) if fold(name) == fold(place.name)]
    return sorted(found)


def has(name: str) -> bool:
    """Return whether :func:`load` would find ``name``."""
    return fold(name) in _places()


def kind_of(name: str) -> str:
    """Return the kind of the technique ``name``.

    Raises:
        UnknownNameError: if there is no such technique; offers the nearest.
    """
    return _place(name).kind


def _place(name: str) -> Place:
    places = _places()
    if fold(name) not in places:
        raise unknown("technique", name, [place.name for place in places.values()])
    return places[fold(name)]


@cache
def load(name: str) -> type[Technique]:
    """Import one technique and return its class.

    Args:
        name: of the file or of the class: ``"low_rank"`` and ``"LowRank"`` are the same.

    Raises:
        UnknownNameError: if there is no such technique; offers the nearest.
        PliantError: if its file does not hold the class that its name promises.
    """
    place = _place(name)
    if place.entry is not None:
        found = place.entry.load()
    else:
        module = import_module(f"{__package__}.techniques.{place.kind}.{place.name}")
        own = (value for value in vars(module).values() if getattr(value, "__module__", "") == module.__name__)
        found = next((value for value in own if fold(getattr(value, "__name__", "")) == fold(place.name)), None)
    if not (isinstance(found, type) and issubclass(found, Technique)):
        where = place.entry.value if place.entry else f"techniques/{place.kind}/{place.name}.py"
        raise PliantError(
            f"{where} must hold a subclass of Technique named like {place.name!r} in CamelCase, got {found!r}"
        )
    return found


def default(kind: str) -> Technique:
    """Return the technique that is used where the caller names none of this kind, with its default fields.

    The folder's ``__init__.py`` says which: ``DEFAULT = "snake_name"``.

    Raises:
        UnknownNameError: if there is no such kind.
        PliantError: if the kind has no default.
    """
    if kind not in kinds():
        raise unknown("kind of technique", kind, kinds())
    name = getattr(import_module(f"{__package__}.techniques.{kind}"), "DEFAULT", None)
    if name is None:
        raise PliantError(f"the kind {kind!r} has no default technique; name one of {', '.join(names(kind))}")
    return load(name)()


def entries() -> list[Entry]:
    """Return a row for every technique, by kind and name, for the table of systems. Imports all of them."""
    rows = []
    for place in sorted(_places().values(), key=lambda place: (place.kind, place.name)):
        found = load(place.name)
        summary = (found.__doc__ or "").strip().partition("\n")[0]
        rows.append(Entry(found.__name__, place.kind, str(found.paper or ""), summary))
    return rows
