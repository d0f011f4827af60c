"""Numeric comparison of an artefact with the network that it came from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.utils import _pytree as pytree

from ..checks import VerificationError
from ..measure.capture import brief, plain, rebatch
from ..measure.inference import batch_size, evaluating
from .artefact import Draft

TOLERANCE = 1e-4
"""The largest difference allowed, over the largest absolute value of that output."""


@dataclass(frozen=True)
class Verdict:
    """How far an artefact is from its network, and the batch sizes on which that was seen."""

    max_error: float
    batches: tuple[int, ...]


def verify(net: nn.Module, draft: Draft, args: tuple[Any, ...], kwargs: dict[str, Any], what: str) -> Verdict:
    """Compare on the example and, where the batch should be free, on two other batch sizes.

    Raises:
        VerificationError: it does not run, the numbers differ by more than :data:`TOLERANCE`, or shapes differ.
    """
    worst = difference(net, draft, args, kwargs, what)
    batch = batch_size(args, kwargs)
    if not draft.dynamic or batch is None:
        return Verdict(worst, (batch,) if batch else ())
    batches = [batch]
    for other in (batch + 1, 1):
        if other in batches:
            continue
        changed = rebatch((args, kwargs), batch, other)
        worst = max(worst, difference(net, draft, changed[0], changed[1], f"{what} on a batch of {other}"))
        batches.append(other)
    return Verdict(worst, tuple(batches))


def difference(net: nn.Module, draft: Draft, args: tuple[Any, ...], kwargs: dict[str, Any], what: str) -> float:
    """Return the largest difference over all outputs, each relative to its own scale."""
    with evaluating(net):
        try:
            expected = _leaves(plain(net(*args, **kwargs)))
        except Exception as error:
            raise VerificationError(f"the network itself does not run, for {what}: {brief(error)}") from error
        found = _leaves(_run(draft, args, kwargs, what))
    if len(expected) != len(found):
        raise VerificationError(f"{what} gives {len(found)} tensors, the network {len(expected)}")
    worst = 0.0
    for index, (left, right) in enumerate(zip(expected, found, strict=True)):
        if left.shape != right.shape:
            raise VerificationError(
                f"output {index} of {what} has shape {tuple(right.shape)}, the network's {tuple(left.shape)}"
            )
        gap = _relative(left, right)
        if not gap <= TOLERANCE:  # also for nan
            raise VerificationError(
                f"output {index} of {what} differs from the network by {gap:.2e} of its scale (at most "
                f"{TOLERANCE:.0e} is allowed); no file was left. Randomness in the forward pass is one cause, an "
                "operation that its runtime computes otherwise another"
            )
        worst = max(worst, gap)
    return worst


def _run(draft: Draft, args: tuple[Any, ...], kwargs: dict[str, Any], what: str) -> Any:
    try:
        return draft.run(args, kwargs)
    except Exception as error:
        raise VerificationError(f"{what} does not run: {brief(error)}; no file was left") from error


def _leaves(tree: Any) -> list[torch.Tensor]:
    return [torch.as_tensor(leaf).detach().cpu() for leaf in pytree.tree_leaves(tree) if leaf is not None]


def _relative(expected: torch.Tensor, found: torch.Tensor) -> float:
    if not expected.numel():
        return 0.0
    if not (expected.is_floating_point() or expected.is_complex()):
        return 0.0 if torch.equal(expected.to(found.dtype), found) else float("inf")
    kind = torch.complex128 if expected.is_complex() else torch.float64
    left, right = expected.to(kind), found.to(kind)
    same = (left == right) | (left.isnan() & right.isnan())  # masks are often infinite on both sides
    gap = torch.where(same, torch.zeros_like(left), left - right).abs().max().item()
    finite = left.abs()[left.isfinite()]
    scale = finite.max().item() if finite.numel() else 0.0
    return gap / (scale or 1.0)
