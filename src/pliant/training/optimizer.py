"""The optimizer where the caller gives none."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn

_FUSED = ("cpu", "cuda", "mps", "xpu")  # where torch's fused AdamW runs


def default_optimizer(
    parameters: Iterable[nn.Parameter], lr: float = 1e-3, weight_decay: float = 0.05
) -> torch.optim.AdamW:
    """Return AdamW, fused where torch has that for these parameters.

    A family's optimizer steps on all of its weights however small the member that learnt, in some recipes several times
    in each training step. Fused, a step on the digits family takes a quarter of the time.
    """
    rows = list(parameters)
    fused = bool(rows) and all(p.is_floating_point() and p.device.type in _FUSED for p in rows)
    return torch.optim.AdamW(rows, lr=lr, weight_decay=weight_decay, fused=fused)
