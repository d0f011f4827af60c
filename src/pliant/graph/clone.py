"""A quick copy of a module tree that shares what cannot change: many members are made, so `deepcopy` is too slow."""

from __future__ import annotations

import copy
import types
from collections import OrderedDict
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

_SHARED = (int, float, str, bool, bytes, complex, type(None), torch.dtype, torch.device, type, types.FunctionType)
_PLAIN = frozenset({int, float, str, bool, type(None), torch.dtype, torch.device})
_EMPTY = frozenset({dict, OrderedDict, list, set})
_STORES = {"_parameters", "_buffers", "_modules"}


def clone_tree(root: nn.Module) -> nn.Module:
    """Copy a module and its submodules; parameters and buffers are the same objects as the original's.

    Other attributes are shared where they are plain values or cannot be copied, and deep-copied otherwise, with every
    reference to a module of the tree turned to its copy: bound methods and functions that hold one, too. A module that
    is used in several places stays one module.
    """
    memo: dict[int, Any] = {}
    modules = list(root.modules())
    for module in modules:
        # Not the class' own __new__: a traced module's makes a new class, without its forward.
        memo[id(module)] = object.__new__(module.__class__)
        for tensor in (*module._parameters.values(), *module._buffers.values()):
            if tensor is not None:
                memo[id(tensor)] = tensor
    for module in modules:
        new = memo[id(module)].__dict__
        for key, value in module.__dict__.items():
            if type(value) in _PLAIN:  # most attributes: a look-up here saves a call for each
                new[key] = value
            elif type(value) in _EMPTY and not value:  # asked in this order: a tensor has no truth
                new[key] = type(value)()
            elif key == "_modules":
                new[key] = {name: memo[id(child)] if child is not None else None for name, child in value.items()}
            elif key in _STORES:
                new[key] = dict(value)
            elif key == "_compiled_call_impl":  # what was compiled would run the original
                new[key] = None
            else:
                new[key] = _copied(value, memo)
        if "_orig_mod" in module._modules and "forward" in new:  # a wrapper of `torch.compile`: the copy runs its own
            new["forward"] = new["_modules"]["_orig_mod"]
    return memo[id(root)]


def _copied(value: Any, memo: dict[int, Any]) -> Any:
    if type(value) in _EMPTY and not value:
        return type(value)()
    if isinstance(value, (types.FunctionType, list, tuple, dict)):
        for function in _functions(value):
            memo.setdefault(id(function), _turned(function, memo))
        if isinstance(value, types.FunctionType):
            return memo[id(value)]
    if isinstance(value, _SHARED):
        return value
    if isinstance(value, (tuple, torch.Size)) and all(isinstance(item, _SHARED) for item in value):
        return value
    try:
        return copy.deepcopy(value, memo)
    except (TypeError, RuntimeError, NotImplementedError):  # a lock, an open file, a tensor that is a result: shared
        return value


def _functions(value: Any) -> Iterator[types.FunctionType]:
    """Yield a function, or those in a list, tuple or dict."""
    items = value.values() if isinstance(value, dict) else value if isinstance(value, (list, tuple)) else (value,)
    yield from (item for item in items if type(item) is types.FunctionType)


def _turned(function: types.FunctionType, memo: dict[int, Any]) -> types.FunctionType:
    """Return a function that holds modules of the tree, as ``lambda x: mlp.out(mlp.into(x))`` does, with copies."""

    def turned(held: Any) -> Any:
        return memo.get(id(held), held) if isinstance(held, nn.Module) else held

    cells, defaults = function.__closure__ or (), function.__defaults__ or ()
    held = [_content(cell) for cell in cells]
    new, given = [turned(each) for each in held], tuple(turned(each) for each in defaults)
    if all(a is b for a, b in zip((*held, *defaults), (*new, *given), strict=True)):
        return function
    closure = tuple(
        cell if now is before else types.CellType(now) for cell, before, now in zip(cells, held, new, strict=True)
    )
    made = types.FunctionType(
        function.__code__, function.__globals__, function.__name__, given or None, closure or None
    )
    made.__kwdefaults__ = function.__kwdefaults__
    made.__dict__.update(function.__dict__)
    return made


def _content(cell: types.CellType) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # not filled yet
        return None
