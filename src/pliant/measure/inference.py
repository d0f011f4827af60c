"""Running a network as it will be deployed: evaluation mode, no gradients, nothing of it changed afterwards."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.utils import _pytree as pytree

from ..checks import WrongShapeError

Args = tuple[Any, ...]
Kwargs = Mapping[str, Any]


@contextmanager
def evaluating(net: nn.Module) -> Iterator[nn.Module]:
    """Put ``net`` into evaluation mode without gradients; give every submodule its own mode back afterwards.

    torch's fused transformer kernels are off inside: they hide their operations from counters and from capture.
    """
    modes = [(module, module.training) for module in net.modules()]
    fused = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        net.eval()
        with torch.no_grad():
            yield net
    finally:
        torch.backends.mha.set_fastpath_enabled(fused)
        for module, mode in modes:
            module.training = mode


def placed(net: nn.Module, args: Any, kwargs: Kwargs | None) -> tuple[Args, dict[str, Any]]:
    """Return the example arguments on the device of ``net``.

    Raises:
        WrongShapeError: ``args`` is not a tuple or a list of positional arguments.
    """
    if not isinstance(args, tuple | list):
        give = "give keyword arguments as example_kwargs" if isinstance(args, Mapping) else "write (x,) for one tensor"
        raise WrongShapeError(f"example_args is a tuple of positional arguments, got {type(args).__name__}: {give}")
    device = next((tensor.device for tensor in [*net.parameters(), *net.buffers()]), None)
    given = (tuple(args), dict(kwargs or {}))
    if device is None or device.type == "meta":
        return given
    moved = pytree.tree_map_only(torch.Tensor, lambda tensor: tensor.to(device), given)
    return moved[0], moved[1]


def tensors_of(tree: Any) -> list[torch.Tensor]:
    """Return the tensors of a nested structure, in order."""
    return [leaf for leaf in pytree.tree_leaves(tree) if isinstance(leaf, torch.Tensor)]


def batch_size(args: Any, kwargs: Any = None) -> int | None:
    """Return the size of the first dimension of the first tensor that has one; ``None`` without such a tensor."""
    return next((tensor.shape[0] for tensor in tensors_of((args, kwargs or {})) if tensor.ndim > 0), None)
