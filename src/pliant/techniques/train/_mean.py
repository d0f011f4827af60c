"""What several networks gave on one batch, as one teacher."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from ...family.imitation import View


def mean_of(seen: Sequence[Any]) -> Any:
    """Return what networks gave, averaged, in the form that a training step takes for a teacher.

    Of logits ``(..., classes)`` the probabilities are averaged, of other numbers the values; features are left out.

    Args:
        seen: what ``turn.learn`` or ``turn.see`` returned, of one batch.
    """
    rows = zip(*(each.views for each in seen), strict=True)
    return replace(seen[0], views=tuple(View(_mean([view.outputs for view in row])) for row in rows))


def _mean(outputs: Sequence[Any]) -> Any:
    parts = [pytree.tree_flatten(each) for each in outputs]
    leaves = [_mean_leaf(list(row)) for row in zip(*(found for found, _ in parts), strict=True)]
    return pytree.tree_unflatten(leaves, parts[0][1])


def _mean_leaf(values: list[Any]) -> Any:
    first = values[0]
    if not isinstance(first, Tensor) or not first.is_floating_point():
        return first
    stacked = torch.stack(values)
    if first.dim() < 2 or first.shape[-1] == 1:
        return stacked.mean(0)
    return stacked.log_softmax(-1).exp().mean(0).clamp_min(torch.finfo(first.dtype).tiny).log()
