"""A quick copy of a module tree that shares what cannot change: many members are made, so `deepcopy` is too slow."""

from __future__ import annotations

import copy
import types
from collections import OrderedDict
from typing import Any

import torch
from torch import nn

_SHARED = (int, float, str, bool, bytes, complex, type(None), torch.dtype, torch.device, type, types.FunctionType)
_STORES = {"_parameters", "_buffers", "_modules"}


def clone_tree(root: nn.Module) -> nn.Module:
    """Copy a module and its submodules; parameters and buffers are the same objects as the original's.

    Other attributes are shared where they are plain values and deep-copied otherwise, with every reference to a module
    of the tree (bound methods too) turned to its copy. A module that is used in several places stays one module.
    """
    memo: dict[int, Any] = {}
    for tensor in [*root.parameters(), *root.buffers()]:
        memo[id(tensor)] = tensor
    modules = list(root.modules())
    for module in modules:
        memo[id(module)] = module.__class__.__new__(module.__class__)
    for module in modules:
        new = memo[id(module)].__dict__
        for key, value in module.__dict__.items():
            if key == "_modules":
                new[key] = {name: memo[id(child)] if child is not None else None for name, child in value.items()}
            elif key in _STORES:
                new[key] = dict(value)
            else:
                new[key] = _copied(value, memo)
    return memo[id(root)]


def _copied(value: Any, memo: dict[int, Any]) -> Any:
    if isinstance(value, _SHARED):
        return value
    if isinstance(value, (tuple, torch.Size)) and all(isinstance(item, _SHARED) for item in value):
        return value
    if type(value) in (dict, OrderedDict, list, set) and not value:
        return type(value)()
    return copy.deepcopy(value, memo)
