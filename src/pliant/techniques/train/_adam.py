"""Adam on a single tensor, its moments kept by the caller (Kingma and Ba, 2015, arXiv 1412.6980)."""

from __future__ import annotations

import torch
from torch import Tensor


def adam(
    weight: Tensor,
    gradient: Tensor,
    kept: dict[str, Tensor],
    step: int,
    lr: float,
    betas: tuple[float, float] = (0.9, 0.99),
) -> None:
    """Make one step in place; call it without gradients.

    Args:
        weight: what is changed.
        gradient: of the same shape.
        kept: holds the moments, made at the first step.
        step: counts from 1.
        lr: the learning rate.
        betas: how much of each moment stays.
    """
    mean = kept.setdefault("mean", torch.zeros_like(weight))
    square = kept.setdefault("square", torch.zeros_like(weight))
    mean.lerp_(gradient, 1 - betas[0])
    square.lerp_(gradient * gradient, 1 - betas[1])
    weight.sub_(lr * (mean / (1 - betas[0] ** step)) / ((square / (1 - betas[1] ** step)).sqrt() + 1e-8))
