"""How each module of a network is called: what a block needs to be left out is known from its first call."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.utils import _pytree as pytree

from .nouns import Interface


@dataclass(frozen=True)
class ModuleCall:
    """How often a module was called while the graph was captured, and its interface if an input could replace it."""

    path: str
    calls: int
    interface: Interface | None


class CallLog:
    """Forward hooks that note how each module of ``model`` is called while :meth:`listening`."""

    def __init__(self, model: nn.Module) -> None:
        self.records: dict[str, ModuleCall] = {}
        self._modules = list(model.modules())
        # The tracer wraps a module that has several names in proxies, which share its attributes.
        self._paths = {id(module.__dict__): path for path, module in model.named_modules()}

    @contextmanager
    def listening(self) -> Iterator[CallLog]:
        """Note the calls of the modules until the end of the block; what was noted before is forgotten."""
        self.records.clear()
        hooks = [m.register_forward_hook(self._hook, with_kwargs=True) for m in self._modules]
        try:
            yield self
        finally:
            for hook in hooks:
                hook.remove()

    def _hook(self, module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        path = self._paths[id(module.__dict__)]
        if path in self.records:
            self.records[path] = ModuleCall(path, self.records[path].calls + 1, None)
            return
        plain = len(args) == 1 and not kwargs and isinstance(args[0], torch.Tensor) and isinstance(output, torch.Tensor)
        self.records[path] = ModuleCall(path, 1, _interface((args, kwargs), output, plain))


def _interface(given: Any, output: Any, plain: bool) -> Interface | None:
    flat_in, _ = pytree.tree_flatten(given)
    flat_out, spec = pytree.tree_flatten(output)
    where = {id(value): i for i, value in enumerate(flat_in) if isinstance(value, torch.Tensor)}
    passed = tuple(where.get(id(v)) if isinstance(v, torch.Tensor) else -1 for v in flat_out)
    made = [i for i, v in enumerate(flat_out) if isinstance(v, torch.Tensor) and passed[i] is None]
    for hidden, value in enumerate(flat_in):
        if not isinstance(value, torch.Tensor) or value.dim() < 2:
            continue
        for result in made:
            if _shape(flat_out[result]) == _shape(value) and flat_out[result].dtype == value.dtype:
                return Interface(hidden, result, passed, spec, plain)
    return None


def _shape(tensor: torch.Tensor) -> tuple[int | None, ...]:
    return tuple(size if isinstance(size, int) else None for size in tensor.shape)  # None: known only at run time
