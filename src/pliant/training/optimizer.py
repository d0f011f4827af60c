"""The optimizer where the caller gives none, and what an optimizer remembers of weights."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from ..family.family import Family
from ..family.optimizers import can_fuse


def default_optimizer(
    parameters: Iterable[nn.Parameter], lr: float = 1e-3, weight_decay: float = 0.05
) -> torch.optim.AdamW:
    """Return AdamW, fused where torch has that for these parameters."""
    rows = list(parameters)
    return torch.optim.AdamW(rows, lr=lr, weight_decay=weight_decay, fused=can_fuse(rows))


def moments(family: Family, optimizer: torch.optim.Optimizer | None) -> list[dict[str, Tensor]]:
    """Return what an optimizer remembers of each entry of the family's weights: by kind, then by the weight's name."""
    found: dict[str, dict[str, Tensor]] = {}
    for name, weight in {**family.tensors(), **family.extra}.items():
        state = optimizer.state.get(weight, {}) if optimizer is not None else {}
        for kind, value in state.items():
            if isinstance(value, Tensor) and value.shape == weight.shape:
                found.setdefault(kind, {})[name] = value
    return list(found.values())
