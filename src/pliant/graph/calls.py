"""Torch functions as the user's code calls them: where a call stands, its integers, and other ones in their place."""

from __future__ import annotations

import os
import sys
import types
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch.fx import Node
from torch.overrides import TorchFunctionMode

# Where in the user's code a call stands: the code object and the instruction.
Location = tuple[types.CodeType, int]

_TORCH = str(Path(torch.__file__).parent) + os.sep
_INSIDE: dict[types.CodeType, bool] = {}
# While a network is captured with a free batch, sizes are symbols: each takes the place of an integer.
_INTEGERS = (int, torch.SymInt)


def location(skip: int = 1) -> Location | None:
    """Return where the innermost frame that is not torch's own stands, ``skip`` frames above the caller."""
    frame: types.FrameType | None = sys._getframe(skip + 1)
    while frame is not None:
        code = frame.f_code
        inside = _INSIDE.get(code)
        if inside is None:
            inside = _INSIDE[code] = code.co_filename.startswith(_TORCH)
        if not inside:
            return code, frame.f_lasti
        frame = frame.f_back
    return None


def integers(value: Any) -> Iterator[int]:
    """Yield the integers in a call's arguments, in order; truth values are none."""
    if isinstance(value, _INTEGERS):
        if not isinstance(value, bool):
            yield value  # type: ignore[misc]
    elif isinstance(value, (tuple, list)):
        for item in value:
            yield from integers(item)
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from integers(item)
    elif isinstance(value, slice):
        yield from integers((value.start, value.stop, value.step))


def with_integers(value: Any, new: Mapping[int, int], start: int = 0) -> tuple[Any, int]:
    """Return the arguments with integers replaced by their place in :func:`integers`, and how many places there were.

    ``new`` may be empty: then what comes back has the same values, and plain integers only.
    """
    if isinstance(value, torch.SymInt):
        return new.get(start, value), start + 1
    if isinstance(value, int):
        return (value, start) if isinstance(value, bool) else (int(new.get(start, value)), start + 1)
    if isinstance(value, (tuple, list)):
        items = []
        for item in value:
            item, start = with_integers(item, new, start)
            items.append(item)
        if hasattr(value, "_fields"):
            return type(value)(*items), start
        return (torch.Size(items) if isinstance(value, torch.Size) else type(value)(items)), start
    if isinstance(value, Mapping):
        named = {}
        for key, item in value.items():
            named[key], start = with_integers(item, new, start)
        return named, start
    if isinstance(value, slice):
        (first, last, step), start = with_integers((value.start, value.stop, value.step), new, start)
        return slice(first, last, step), start
    return value, start


def node_integers(args: Any) -> list[int]:
    """Return the integers in a node's arguments, in order."""
    return [] if isinstance(args, Node) else list(integers(torch.fx.map_arg(args, lambda node: None)))


class SizeMode(TorchFunctionMode):
    """Writes other sizes into some calls, found by where they stand in the user's code.

    Args:
        fixes: per location what to do with the call there: one entry, or one for each time that the code comes by.
    """

    def __init__(self, fixes: Mapping[Location, tuple[Fix | None, ...]]) -> None:
        super().__init__()
        self._fixes = fixes
        self._times: dict[Location, int] = {}

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Call ``func`` with the sizes of the smaller network."""
        here = location()
        rows = self._fixes.get(here) if here is not None else None
        if rows is None or getattr(func, "__name__", "") not in {row.name for row in rows if row is not None}:
            return func(*args, **(kwargs or {}))
        assert here is not None
        time = self._times.get(here, 0)
        self._times[here] = time + 1
        fix = rows[0] if len(rows) == 1 else rows[time] if time < len(rows) else None
        return func(*args, **(kwargs or {})) if fix is None else fix(func, args, kwargs or {})


class Fix:
    """Replaces integers of one call; a split into a number of parts becomes one into parts of given sizes.

    Args:
        name: the function's name: another one at the same place is left alone.
        new: integers by their place.
        split: instead, the sizes of all parts and the dimension that is split.
        scale: instead, the factor of a product.
    """

    __slots__ = ("name", "new", "scale", "split")

    def __init__(
        self,
        name: str,
        new: Mapping[int, int] | None = None,
        split: tuple[tuple[int, ...], int] | None = None,
        scale: float | None = None,
    ) -> None:
        self.name, self.new, self.split, self.scale = name, new, split, scale

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Fix) and all(getattr(self, n) == getattr(other, n) for n in self.__slots__)

    __hash__ = None  # type: ignore[assignment]

    def __call__(self, func: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        """Make the call."""
        if self.split is not None:
            tensor = args[0] if args else next(v for v in kwargs.values() if isinstance(v, torch.Tensor))
            return torch.split(tensor, list(self.split[0]), self.split[1])
        if self.scale is not None:
            return func(*(self.scale if isinstance(arg, float) else arg for arg in args), **kwargs)
        (args, kwargs), _ = with_integers((args, kwargs), self.new or {})
        return func(*args, **kwargs)
