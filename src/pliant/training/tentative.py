"""Training that is taken back: what weights would become, without their becoming it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from ..checks import PliantError, WrongShapeError
from .course import Course


@contextmanager
def tentative(course: Course, optimizer: torch.optim.Optimizer) -> Iterator[None]:
    """Take back whatever is trained inside, bit for bit.

    That is the family's weights and buffers, what is trained beside them, the optimizer's state, the scale of float16
    losses, and torch's random numbers. Gradients are cleared.

    Raises:
        PliantError: gradients wait for an optimizer step: they would be lost.
    """
    learning = [p for group in optimizer.param_groups for p in group["params"]]
    if any(parameter.grad is not None for parameter in learning):
        raise PliantError("foresee() comes before learn(), or after update(): else the gradients would be lost")
    tensors = [(tensor, tensor.detach().clone()) for tensor in course.state()]
    rows = {parameter: _copied(row) for parameter, row in optimizer.state.items()}
    scale = None if course.scaler is None else course.scaler.state_dict()
    devices = [course.device] if course.device.type == "cuda" else []
    try:
        with torch.random.fork_rng(devices=devices):
            yield
    finally:
        with torch.no_grad():
            for tensor, before in tensors:
                tensor.copy_(before)
        for parameter in list(optimizer.state):
            if parameter in rows:
                optimizer.state[parameter] = rows[parameter]
            else:
                del optimizer.state[parameter]
        if course.scaler is not None and scale is not None:
            course.scaler.load_state_dict(scale)
        course.family.zero_grad()
        optimizer.zero_grad(set_to_none=True)


def _copied(row: dict[str, Any]) -> dict[str, Any]:
    return {name: value.clone() if isinstance(value, Tensor) else value for name, value in row.items()}


def halves(batch: Any) -> tuple[Any, Any]:
    """Split the samples of a batch in two; tensors that have not one row per sample go to both.

    Raises:
        WrongShapeError: fewer than two samples.
    """
    tensors = [leaf for leaf in pytree.tree_leaves(batch) if isinstance(leaf, Tensor) and leaf.dim()]
    count = len(tensors[0]) if tensors else 0
    if count < 2:
        raise WrongShapeError(
            f"half of a batch is learnt from and half is looked at: give two samples or more, not {count}"
        )

    def part(rows: slice) -> Any:
        def cut(leaf: Any) -> Any:
            return leaf[rows] if isinstance(leaf, Tensor) and leaf.dim() and len(leaf) == count else leaf

        return pytree.tree_map(cut, batch)

    return part(slice(0, count // 2)), part(slice(count // 2, None))
