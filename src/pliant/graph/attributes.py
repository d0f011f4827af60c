"""The integers in a module's attributes, wherever they are, and writing others in their place.

They may stand alone, in tuples, lists and dicts, in plain objects (a configuration, a dataclass), in a
`functools.partial`, or in the defaults and closure of a function. What holds an integer that changes is copied, so
nothing that other modules share is touched.
"""

from __future__ import annotations

import copy
import functools
import types
from collections.abc import Callable, Iterator
from enum import Enum
from typing import Any

import torch
from torch import nn

from .symbolic import Attribute

_DEPTH = 4
_MOST = 2000  # integers in one attribute: more are data, not sizes
_TORCH_NAMES = frozenset(nn.Module().__dict__) | {"training", "T_destination", "_version", "call_super_init"}

Change = Callable[[Attribute, int], int]


def attributes_of(path: str, module: nn.Module) -> Iterator[tuple[str, Any]]:
    """Yield the attributes of a module that may hold sizes, those of its classes too (which its own then hide)."""
    yield from ((name, value) for name, value in module.__dict__.items() if name not in _TORCH_NAMES)
    for kind in type(module).__mro__:
        if kind is nn.Module:
            return
        for name, value in kind.__dict__.items():
            if type(value) is int and name not in module.__dict__ and name not in _TORCH_NAMES:
                yield name, value


def rewritten(value: Any, place: Attribute, change: Change, depth: int = _DEPTH) -> Any:
    """Return ``value`` with ``change(place, integer)`` for every integer above 1 in it; the same object if none is."""
    if type(value) is int:
        return change(place, value) if value > 1 else value
    if depth == 0 or value is None or isinstance(value, (str, bytes, float, bool, torch.Tensor, nn.Module, type, Enum)):
        return value
    parts = _parts(value)
    if not parts or len(parts) > _MOST:
        return value
    new = {}
    for step, part in parts.items():
        other = rewritten(part, Attribute((*place, step)), change, depth - 1)
        if other is not part:
            new[step] = other
    return _put(value, new) if new else value


def replaced(value: Any, changes: dict[tuple[Any, ...], int]) -> Any:
    """Return a copy of ``value`` with the integers at the given ways replaced; an empty way is the value itself."""
    if () in changes:
        return changes[()]
    inner: dict[Any, dict[tuple[Any, ...], int]] = {}
    for way, number in changes.items():
        inner.setdefault(way[0], {})[way[1:]] = number
    parts = _parts(value)
    return _put(value, {step: replaced(parts[step], rest) for step, rest in inner.items()})


def integer_at(value: Any, way: tuple[Any, ...]) -> Any:
    """Return what stands at the end of a way."""
    for step in way:
        value = _parts(value)[step]
    return value


def _parts(value: Any) -> dict[tuple[str, Any], Any]:
    if isinstance(value, (tuple, list)):
        return {("item", i): part for i, part in enumerate(value)}
    if isinstance(value, dict):
        return {("item", key): part for key, part in value.items()}
    if isinstance(value, functools.partial):
        return {("args", ""): value.args, ("keywords", ""): value.keywords}
    if isinstance(value, types.FunctionType):
        cells = [(i, cell) for i, cell in enumerate(value.__closure__ or ())]
        found: dict[tuple[str, Any], Any] = {("closure", i): cell.cell_contents for i, cell in cells if _full(cell)}
        return found | {("defaults", ""): value.__defaults__ or (), ("kwdefaults", ""): value.__kwdefaults__ or {}}
    if isinstance(value, (types.MethodType, types.ModuleType, types.BuiltinFunctionType)):
        return {}
    inside = getattr(value, "__dict__", None)
    if isinstance(inside, dict) and not callable(value):
        return {("attribute", name): part for name, part in inside.items()}
    return {}


def _full(cell: Any) -> bool:
    try:
        return cell.cell_contents is not cell
    except ValueError:  # not filled yet
        return False


def _put(value: Any, new: dict[Any, Any]) -> Any:
    if isinstance(value, (tuple, list)):
        items = list(value)
        for (_, i), part in new.items():
            items[i] = part
        if hasattr(value, "_fields"):  # a named tuple
            return type(value)(*items)
        return type(value)(items)
    if isinstance(value, dict):
        copied = copy.copy(value)
        copied.update({key: part for (_, key), part in new.items()})
        return copied
    if isinstance(value, functools.partial):
        args, words = new.get(("args", ""), value.args), new.get(("keywords", ""), value.keywords)
        return type(value)(value.func, *args, **words)
    if isinstance(value, types.FunctionType):
        return _function(value, new)
    copied = copy.copy(value)
    for (_, name), part in new.items():
        object.__setattr__(copied, name, part)
    return copied


def _function(value: types.FunctionType, new: dict[Any, Any]) -> types.FunctionType:
    cells = tuple(
        types.CellType(new[("closure", i)]) if ("closure", i) in new else cell
        for i, cell in enumerate(value.__closure__ or ())
    )
    defaults = new.get(("defaults", ""), value.__defaults__)
    made = types.FunctionType(value.__code__, value.__globals__, value.__name__, defaults, cells or None)
    made.__kwdefaults__ = new.get(("kwdefaults", ""), value.__kwdefaults__)
    made.__dict__.update(value.__dict__)
    return made
