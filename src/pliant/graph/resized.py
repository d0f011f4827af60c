"""Modules whose code derives a size from another that has nothing to do with it any more: its calls get the right one.

Code such as ``C // self.num_heads`` holds only while an attention is as wide as its input. No attribute says otherwise,
so a small module keeps the user's class and code, and the arguments of those calls are replaced while it runs.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from functools import cache
from typing import Any

import torch
from torch import nn

from .calls import Fix, Location, SizeMode


@cache
def _resized_class(kind: Any) -> type[nn.Module]:
    # `torch.compile` cannot follow where a call stands: it leaves these modules as they are.
    @torch.compiler.disable
    @functools.wraps(kind.forward)
    def forward(self: Any, *args: Any, **kwargs: Any) -> Any:
        with SizeMode(self._pliant_sizes):
            return kind.forward(self, *args, **kwargs)

    names = {"forward": forward, "__module__": kind.__module__, "__doc__": kind.__doc__}
    made = type(kind.__name__, (kind,), names)
    made.__qualname__ = kind.__qualname__
    return made


def write_sizes(module: nn.Module, fixes: Mapping[Location, tuple[Fix | None, ...]]) -> None:
    """Let ``module`` run its own code with other sizes at the given calls."""
    module.__dict__["_pliant_sizes"] = dict(fixes)
    kind: Any = type(module)
    module.__class__ = _resized_class(kind)


def writes_sizes(module: nn.Module) -> bool:
    """Tell whether a module's calls are corrected while it runs."""
    return "_pliant_sizes" in module.__dict__
