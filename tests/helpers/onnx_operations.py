"""ONNX's operations are read once for all conversions of a process, where torch reads them anew for each."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from functools import cache
from typing import Any

import pytest


@pytest.fixture(autouse=True, scope="session")
def operations_read_once() -> Iterator[None]:
    """Give every conversion a copy of the first one's table: reading 500 functions is most of a small conversion."""
    from torch.onnx._internal.exporter._registration import ONNXRegistry

    read = cache(ONNXRegistry.from_torchlib)

    def table(*args: Any, **kwargs: Any) -> ONNXRegistry:
        made = copy.copy(read(*args, **kwargs))
        made.functions = {name: list(found) for name, found in made.functions.items()}
        return made

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ONNXRegistry, "from_torchlib", staticmethod(table))
        yield
