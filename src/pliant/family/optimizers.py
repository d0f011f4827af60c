"""Optimizers: which may be fused, and those that somebody makes of a member's own parameters.

Torch's fused optimizers step along the memory from a tensor's first element on, whatever its strides (torch 2.13). A
member's parameter that is a view of the family's has gaps, where the weights lie that the member lacks: those would be
written over. A parameter that is a gathered copy is written to by any optimizer, and the family's has to follow.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary, WeakSet

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

from ..checks import PliantError

if TYPE_CHECKING:
    from .gradients import GradientStore

_DEVICES = ("cpu", "cuda", "mps", "xpu")
_DENSE: WeakKeyDictionary[Optimizer, list[int]] = WeakKeyDictionary()  # fused, and how many parameters they step on
_STORES: WeakSet[GradientStore] = WeakSet()  # of all families


def can_fuse(parameters: Iterable[Tensor]) -> bool:
    """Return whether one fused kernel can step on all of these parameters, of which there is one at least.

    A family's optimizer steps on all of its weights however small the member that learnt, in some recipes several times
    in each training step. Fused, a step of AdamW on the digits family takes a quarter of the time or less.
    """
    rows = list(parameters)
    return bool(rows) and all(p.is_floating_point() and p.device.type in _DEVICES and _dense(p) for p in rows)


def _dense(tensor: Tensor) -> bool:
    """Whether a tensor's elements lie side by side, in whatever order of its dimensions."""
    if tensor.layout is not torch.strided or tensor.is_contiguous():
        return True
    wanted = 1
    for stride, size in sorted(zip(tensor.stride(), tensor.shape, strict=True)):
        if size != 1 and stride != wanted:
            return False
        wanted *= size
    return True


def watch(store: GradientStore) -> None:
    """Look after optimizers of what members of a family give out, from now on."""
    _listen()
    _STORES.add(store)


@cache
def _listen() -> None:
    register_optimizer_step_pre_hook(_refuse_gaps)
    register_optimizer_step_post_hook(_settle)


def _refuse_gaps(optimizer: Optimizer, *_: Any) -> None:
    fused = [group for group in optimizer.param_groups if group.get("fused")]
    counts = [len(group["params"]) for group in fused]
    if not fused or _DENSE.get(optimizer) == counts:
        return
    for group in fused:
        if not all(map(_dense, group["params"])):
            raise PliantError(
                f"a fused {type(optimizer).__name__} takes views, as a member's parameters are, for tensors of their "
                "own and would write over other weights: give it family.parameters(), or fused=False (a Trainer of "
                'transformers: optim="adamw_torch")'
            )
    _DENSE[optimizer] = counts


def _settle(optimizer: Optimizer, *_: Any) -> None:
    readings = {key: reading for store in _STORES for key, reading in store.held()}
    if not readings:
        return
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            if (reading := readings.get(id(parameter))) is not None:
                reading.settle()
