"""A quick copy of a module tree that shares what cannot change: many members are made, so `deepcopy` is too slow."""

from __future__ import annotations

import copy
import types
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from operator import is_
from typing import Any, TypeAlias

import torch
from torch import nn

_SHARED = (int, float, str, bool, bytes, complex, type(None), torch.dtype, torch.device, type, types.FunctionType)
_PLAIN = frozenset({int, float, str, bool, type(None), torch.dtype, torch.device})
_EMPTY = frozenset({dict, OrderedDict, list, set})
_STORES = {"_parameters", "_buffers", "_modules"}

Copies: TypeAlias = dict[int, nn.Module]


class Plans:
    """How the modules of one tree are copied: who makes many copies looks at most attributes only once."""

    def __init__(self) -> None:
        self._plans: dict[int, _Plan] = {}

    def of(self, module: nn.Module) -> _Plan:
        """Return the plan of a module, a new one where its attributes are not what they were."""
        found = self._plans.get(id(module))
        if found is None or not found.holds(module):
            found = self._plans[id(module)] = _Plan(module)
        return found


class _Plan:
    """What becomes of each attribute of a module: shared, made anew because it is empty, or looked at each time."""

    __slots__ = ("_empty", "_keys", "_values", "made", "others", "shared")

    def __init__(self, module: nn.Module) -> None:
        attributes = module.__dict__
        self._keys, self._values = list(attributes), list(attributes.values())
        self.shared: dict[str, Any] = dict.fromkeys(attributes)  # all keys, to keep their order
        self._empty: list[Any] = []
        self.made: list[tuple[str, type]] = []
        self.others: list[str] = []
        for key, value in attributes.items():
            if _plain(value):
                self.shared[key] = value
            elif type(value) in _EMPTY and not value:  # asked in this order: a tensor has no truth
                self._empty.append(value)
                self.made.append((key, type(value)))
            else:
                self.others.append(key)

    def holds(self, module: nn.Module) -> bool:
        """Return whether every attribute is the object that it was, and what was empty is."""
        attributes = module.__dict__
        return (
            len(attributes) == len(self._keys)
            and all(map(is_, attributes.values(), self._values))
            and not any(self._empty)
            and list(attributes) == self._keys
        )


def _plain(value: Any) -> bool:
    return type(value) in _PLAIN or (type(value) is tuple and all(type(item) in _PLAIN for item in value))


def tree(root: nn.Module) -> list[tuple[str, nn.Module]]:
    """Return what ``root.named_modules(remove_duplicate=False)`` yields; quicker."""
    rows: list[tuple[str, nn.Module]] = [("", root)]

    def inside(path: str, module: nn.Module) -> None:
        for name, child in module._modules.items():
            if child is not None:
                rows.append((path + name, child))
                if child._modules:
                    inside(f"{path}{name}.", child)

    inside("", root)
    return rows


def clone_tree(root: nn.Module) -> nn.Module:
    """Copy a module and its submodules; parameters and buffers are the same objects as the original's.

    Other attributes are shared where they are plain values or cannot be copied, and deep-copied otherwise, with every
    reference to a module of the tree turned to its copy: bound methods and functions that hold one, too. A module that
    is used in several places stays one module.
    """
    return clone_modules([*root.modules()], Plans())[id(root)]


def clone_modules(modules: Sequence[nn.Module], plans: Plans) -> Copies:
    """Copy a tree as :func:`clone_tree` does.

    Args:
        modules: all modules of the tree, in any order, also several times.
        plans: of earlier copies.

    Returns:
        The copy of each module by the original's ``id``.
    """
    # Not the class' own __new__: a traced module's makes a new class, without its forward.
    memo: Copies = {id(module): object.__new__(module.__class__) for module in modules}
    rest: list[tuple[nn.Module, str]] = []
    for module in {id(module): module for module in modules}.values():
        plan, new = plans.of(module), memo[id(module)].__dict__
        new.update(plan.shared)
        for key, kind in plan.made:
            new[key] = kind()
        for key in plan.others:
            value = module.__dict__[key]
            if key == "_modules":
                new[key] = {name: memo[id(child)] if child is not None else None for name, child in value.items()}
            elif key in _STORES:
                new[key] = dict(value)
            elif key == "_compiled_call_impl":  # what was compiled would run the original
                new[key] = None
            else:
                rest.append((module, key))
    if rest:
        _copy_rest(modules, rest, memo)
    return memo


def _copy_rest(modules: Sequence[nn.Module], rest: Sequence[tuple[nn.Module, str]], copies: Copies) -> None:
    """Copy attributes that may hold anything, modules and tensors of the tree among it."""
    memo: dict[int, Any] = dict(copies)
    for module in modules:
        for tensor in (*module._parameters.values(), *module._buffers.values()):
            if tensor is not None:
                memo[id(tensor)] = tensor
    for module, key in rest:
        new = copies[id(module)].__dict__
        if key == "forward" and "_orig_mod" in module._modules:  # a wrapper of `torch.compile`: the copy runs its own
            new[key] = new["_modules"]["_orig_mod"]
        else:
            new[key] = _copied(module.__dict__[key], memo)


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
