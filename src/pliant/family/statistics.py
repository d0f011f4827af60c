"""Running statistics of normalisation: which buffers they are, and re-estimating them for one member.

A member's activations are distributed otherwise than the full network's, so the statistics that training left in the
shared buffers are wrong for it; they are estimated again from a few batches before it is evaluated (Yu and Huang, 2019,
Universally Slimmable Networks, arXiv 1903.05134).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ..graph.analysis import Analysis
from ..graph.trace import Call, signature


def statistic_names(analysis: Analysis) -> frozenset[str]:
    """Return the canonical names of all running statistics, with the batch counters beside them."""
    capture = analysis.capture
    owners: set[str] = set()
    for node in capture.graph.nodes:
        if node.op != "call_function" or not hasattr(node.target, "_schema"):
            continue
        if signature(node.target)[0] in ("batch_norm", "instance_norm"):
            buffer = Call(node).get("running_mean")
            if buffer is not None:
                target = capture.inputs[str(buffer.target)].target
                owners.add(str(target).rpartition(".")[0])
    specs = [spec for spec in capture.inputs.values() if spec.kind.name == "BUFFER" and spec.target]
    return frozenset(
        capture.aliases.get(s.target, s.target) for s in specs if str(s.target).rpartition(".")[0] in owners
    )


def call(net: nn.Module, inputs: Any) -> Any:
    """Run ``net`` on a batch's inputs: a tensor, a tuple of arguments or a dict of keyword arguments."""
    if isinstance(inputs, Mapping):
        return net(**inputs)
    if isinstance(inputs, (tuple, list)):
        return net(*inputs)
    return net(inputs)


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
    was_training, momenta = net.training, [layer.momentum for layer in layers]
    net.eval()
    for layer in layers:
        layer.reset_running_stats()
        layer.momentum = None  # a cumulative average
        layer.train()
    try:
        with torch.no_grad():
            for inputs in batches:
                call(net, inputs)
    finally:
        for layer, momentum in zip(layers, momenta, strict=True):
            layer.momentum = momentum
        net.train(was_training)
    return len(layers)


def estimate_in_graph(net: nn.Module, statistics: Mapping[str, Tensor], batches: Iterable[Any]) -> int:
    """Estimate running statistics of a graph-form network, whose layers are operations: several passes in train mode.

    The layers' own momentum is part of the graph, so this is an exponential average over the batches.
    """
    if not statistics:
        return 0
    was_training = net.training
    net.train()
    try:
        with torch.no_grad():
            for inputs in batches:
                call(net, inputs)
    finally:
        net.train(was_training)
    return len(statistics)
