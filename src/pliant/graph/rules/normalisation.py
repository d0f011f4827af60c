"""Normalisation layers: their scales, shifts and running statistics follow the normalised dimension."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..dims import Dim
from ..trace import Call, Tracer

Size = Callable[[Dim], Any]


def channelwise(t: Tracer, call: Call) -> None:
    """`batch_norm`, `instance_norm`: channels are dimension 1."""
    x = t.of(call["input"])
    for name in ("weight", "bias", "running_mean", "running_var"):
        if call.get(name) is not None:
            t.tie(x[1], t.of(call[name])[0], call.node)
    t.set(call, x)


def trailing(t: Tracer, call: Call) -> None:
    """`layer_norm`, `rms_norm` over the last dimensions."""
    x = t.of(call["input"])
    for name in ("weight", "bias"):
        if call.get(name) is not None:
            dims = t.of(call[name])
            for i in range(1, len(dims) + 1):
                t.tie(x[-i], dims[-i], call.node)
    t.set(call, x)


def group_norm(t: Tracer, call: Call) -> None:
    """`group_norm(x, groups)`: channels are groups x channels of a group; both may be cut."""
    x = t.of(call["input"])
    groups = int(call["num_groups"])
    if groups > 1:
        t.notes[call.node] = t.factors(x[1], [groups, x[1].root().size // groups], call.node)
    for name in ("weight", "bias"):
        if call.get(name) is not None:
            t.tie(x[1], t.of(call[name])[0], call.node)
    t.set(call, x)


def resize_trailing(t: Tracer, call: Call, size: Size) -> dict[str, Any]:
    """Write ``normalized_shape``."""
    count = len(call["normalized_shape"])
    return {"normalized_shape": [size(dim) for dim in t.of(call["input"])[-count:]]}


def resize_groups(t: Tracer, call: Call, size: Size) -> dict[str, Any]:
    """Write ``num_groups``."""
    return {"num_groups": size(t.notes[call.node][0])} if call.node in t.notes else {}


RULES = {
    "batch_norm": channelwise,
    "instance_norm": channelwise,
    "layer_norm": trailing,
    "rms_norm": trailing,
    "group_norm": group_norm,
}
SIZES = {"layer_norm": resize_trailing, "rms_norm": resize_trailing, "group_norm": resize_groups}
