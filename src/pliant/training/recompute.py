"""Gradient checkpointing: what is inside a member's blocks is computed again in the backward pass.

A block's inputs are kept and everything inside is dropped after the forward pass (Chen et al., 2016, Training Deep Nets
with Sublinear Memory Cost, arXiv 1604.06174). The second run draws the same random numbers, so dropout and gradients
are the same; running statistics of normalisation are updated by the first run alone.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any

from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ..checks import NoEffectWarning, PliantError
from ..family.family import Family


def block_paths(family: Family) -> tuple[str, ...]:
    """Return the paths of the modules that are computed again: blocks that are in no other block.

    Warns where there are none, or where members are single graphs (:class:`~pliant.checks.NoEffectWarning`).
    """
    if family.form == "graph":
        why = f"members of this family run as graphs, which have no modules to run again ({family.why_graph})"
    else:
        paths = {block.module for block in family.analysis.blocks if block.module}
        outer = tuple(sorted(p for p in paths if not any(p.startswith(f"{other}.") for other in paths)))
        if outer:
            return outer
        why = "the analysis found no blocks (parts on residual paths) in this network"
    warnings.warn(f"checkpointing=True saves no memory: {why}", NoEffectWarning, stacklevel=4)
    return ()


@contextmanager
def recomputed(net: nn.Module, paths: Sequence[str]) -> Iterator[None]:
    """Let the submodules of ``net`` at ``paths`` keep their inputs only, in forward passes inside this block.

    Paths that ``net`` does not have, and blocks that were left out, are passed over.

    Raises:
        PliantError: a block changes a buffer of its own while it runs, so that a second run would differ.
    """
    modules = dict(net.named_modules()) if paths else {}
    chosen = {id(m): m for m in map(modules.get, paths) if m is not None and next(m.parameters(), None) is not None}
    before = [(module, module.__dict__.get("forward")) for module in chosen.values()]
    for module in chosen.values():
        module.__dict__["forward"] = partial(_run, module, module.forward)
    try:
        yield
    finally:
        for module, forward in before:
            if forward is None:
                del module.__dict__["forward"]
            else:
                module.__dict__["forward"] = forward


def _run(module: nn.Module, forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    states = _states(module)
    versions = [tensor._version for _, tensor in states]
    outputs = checkpoint(partial(forward, **kwargs), *args, use_reentrant=False, context_fn=partial(_contexts, module))
    for (name, tensor), version in zip(states, versions, strict=True):
        if tensor._version != version:
            raise PliantError(
                f"a {type(module).__name__} changes its buffer {name!r} while it runs, so running it again for the "
                "backward pass would give something else; train without checkpointing"
            )
    return outputs


def _states(module: nn.Module) -> list[tuple[str, Tensor]]:
    """Return the buffers of a block that are no running statistics."""
    return [
        (name, buffer)
        for part in module.modules()
        if not isinstance(part, nn.modules.batchnorm._NormBase)
        for name, buffer in part._buffers.items()
        if buffer is not None
    ]


def _contexts(module: nn.Module) -> tuple[AbstractContextManager[Any], AbstractContextManager[Any]]:
    return nullcontext(), _still(module)


@contextmanager
def _still(module: nn.Module) -> Iterator[None]:
    """Let normalisation layers run without moving their running statistics."""
    layers = [part for part in module.modules() if isinstance(part, nn.modules.batchnorm._NormBase)]
    before = [(layer.momentum, layer._buffers.get("num_batches_tracked")) for layer in layers]
    for layer in layers:
        layer.momentum = 0.0
        layer._buffers["num_batches_tracked"] = None
    try:
        yield
    finally:
        for layer, (momentum, counter) in zip(layers, before, strict=True):
            layer.momentum = momentum
            layer._buffers["num_batches_tracked"] = counter
