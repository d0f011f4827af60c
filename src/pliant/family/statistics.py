"""Running statistics of normalisation: which buffers they are, and re-estimating them for one member.

A member's activations are distributed otherwise than the full network's, so the statistics that training left in the
shared buffers are wrong for it; they are estimated again from a few batches before it is evaluated (Yu and Huang, 2019,
Universally Slimmable Networks, arXiv 1903.05134).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from ..graph.analysis import Analysis
from ..graph.prepare import seeded
from ..graph.trace import Call, signature


def statistic_momenta(analysis: Analysis, model: nn.Module) -> dict[str, float]:
    """Return the momentum of every running statistic by its canonical name; 0 for the batch counters beside them.

    The part of ``model`` that was captured is read from its graph; the rest, if there is one, from its modules.
    """
    capture = analysis.capture
    found = _outside(model, capture.scope.only, capture.aliases) if capture.scope.only else {}
    owners: dict[str, float] = {}
    for node in capture.graph.nodes:
        if node.op != "call_function" or not hasattr(node.target, "_schema"):
            continue
        if signature(node.target)[0] in ("batch_norm", "instance_norm"):
            buffer = Call(node).get("running_mean")
            if buffer is not None:
                target = capture.inputs[str(buffer.target)].target
                owners[str(target).rpartition(".")[0]] = float(Call(node)["momentum"])
    for spec in capture.inputs.values():
        owner, _, last = str(spec.target).rpartition(".")
        if spec.kind.name == "BUFFER" and spec.target and owner in owners:
            running = last in ("running_mean", "running_var")
            found[capture.aliases.get(spec.target, spec.target)] = owners[owner] if running else 0.0
    return found


def _outside(model: nn.Module, only: str, aliases: Mapping[str, str]) -> dict[str, float]:
    found: dict[str, float] = {}
    for path, module in model.named_modules():
        if isinstance(module, nn.modules.batchnorm._NormBase) and not f"{path}.".startswith(f"{only}."):
            for name, buffer in module.named_buffers(recurse=False):
                full = f"{path}.{name}" if path else name
                moves = name.startswith("running") and buffer.is_floating_point()
                found[aliases.get(full, full)] = (module.momentum or 0.0) if moves else 0.0
    return found


def arguments(inputs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return a batch's inputs, a tensor, a tuple of arguments or a dict of keyword arguments, as ``(args, kwargs)``."""
    if isinstance(inputs, Mapping):
        return (), dict(inputs)
    return (tuple(inputs) if isinstance(inputs, (tuple, list)) else (inputs,)), {}


def call(net: Callable[..., Any], inputs: Any) -> Any:
    """Run ``net`` on a batch's inputs."""
    args, kwargs = arguments(inputs)
    return net(*args, **kwargs)


@contextmanager
def keeping_modes(net: nn.Module) -> Iterator[None]:
    """Give every module of ``net`` its own training mode back afterwards."""
    modes = [(module, module.training) for module in net.modules()]
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode


def estimate_statistics(net: nn.Module, batches: Iterable[Any]) -> int:
    """Estimate the running statistics of ``net`` anew as the plain average over ``batches`` of inputs.

    Only normalisation layers are put in training mode, so dropout stays off. The modes are restored.

    Returns:
        The number of layers whose statistics were estimated.
    """
    layers = [
        module
        for module in net.modules()
        if isinstance(module, nn.modules.batchnorm._NormBase) and module.running_mean is not None
    ]
    if not layers:
        return 0
    momenta = [layer.momentum for layer in layers]
    with keeping_modes(net), torch.no_grad():
        net.eval()
        for layer in layers:
            layer.reset_running_stats()
            layer.momentum = None  # a cumulative average
            layer.train()
        try:
            for inputs in batches:
                call(net, inputs)
        finally:
            for layer, momentum in zip(layers, momenta, strict=True):
                layer.momentum = momentum
    return len(layers)


def estimate_in_graph(
    net: nn.Module, statistics: Mapping[str, Tensor], momenta: Mapping[str, float], batches: Iterable[Any]
) -> int:
    """Estimate the running statistics of a graph-form network, whose layers are operations, anew as a plain average.

    Each layer's momentum is part of the graph: from statistics of zero, one batch leaves the batch's own times it.
    Other operations that depend on the mode, such as dropout, are in training mode too; their draws are fixed.

    Returns:
        The number of statistics that were estimated.
    """
    moving = {name: tensor for name, tensor in statistics.items() if momenta.get(name, 0.0) > 0}
    if not moving:
        return 0
    sums, count = {name: torch.zeros_like(tensor) for name, tensor in moving.items()}, 0
    with keeping_modes(net), torch.no_grad(), seeded(0):
        net.train()
        for inputs in batches:
            for tensor in moving.values():
                tensor.zero_()
            call(net, inputs)
            for name, tensor in moving.items():
                sums[name] += tensor / momenta[name]
            count += 1
        for name, tensor in moving.items():
            tensor.copy_(sums[name] / max(1, count))
    return len(moving)
