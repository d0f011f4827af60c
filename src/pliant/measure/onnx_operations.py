"""The table of ONNX operations is read once for all conversions of a process, where torch reads it for each anew."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any


@contextmanager
def operations_read_once() -> Iterator[None]:
    """Give every conversion inside a copy of the first one's table.

    To read its 500 functions is a third of the conversion of a small vision transformer. The place in torch is not
    public: where a version lacks it, conversions do what they always do.
    """
    found = _registry()
    if found is None:
        yield
        return
    kind, own = found
    kind.from_torchlib = staticmethod(_table)
    try:
        yield
    finally:
        kind.from_torchlib = own


@cache
def _registry() -> tuple[Any, Any] | None:
    """Return the class of such tables, and what makes one as torch has it."""
    try:
        from torch.onnx._internal.exporter._registration import ONNXRegistry

        return ONNXRegistry, ONNXRegistry.__dict__["from_torchlib"]
    except (ImportError, KeyError):
        return None


@cache
def _read(*args: Any, **kwargs: Any) -> Any:
    found = _registry()
    assert found is not None
    kind, own = found
    return own.__get__(None, kind)(*args, **kwargs)


def _table(*args: Any, **kwargs: Any) -> Any:
    made = copy.copy(_read(*args, **kwargs))
    made.functions = {name: list(rows) for name, rows in made.functions.items()}  # a conversion may add its own
    return made
