"""What the user's code writes down: the values of constant tensors, and numbers computed from them."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.fx import Node

from .trace import Tracer

_SAME = ("lift_fresh_copy", "lift_fresh", "clone", "detach", "detach_", "alias", "to", "_to_copy")
_MAPS = {"sqrt": math.sqrt, "rsqrt": lambda value: value**-0.5, "reciprocal": lambda value: 1 / value}


def constant(trace: Tracer, node: Node) -> Tensor | None:
    """Return the values of a tensor that is written in the user's code, None for any other."""
    node = _unwrapped(node)
    spec = trace.capture.inputs.get(str(node.target)) if node.op == "placeholder" else None
    if spec is None or spec.kind.name != "CONSTANT_TENSOR" or spec.target is None:
        return None
    found = trace.capture.program.constants.get(spec.target)
    return found if isinstance(found, Tensor) else None


def _unwrapped(node: Node) -> Node:
    while node.op == "call_function" and getattr(node.target, "_opname", "") in _SAME:
        node = node.args[0]  # type: ignore[assignment]
    return node


def scalar(trace: Tracer, value: Any) -> float | None:
    """Return a float of the code: written as it is, as a tensor of no dimensions, or computed from one."""
    if isinstance(value, float):
        return value
    if not isinstance(value, Node):
        return None
    value = _unwrapped(value)
    name = getattr(value.target, "_opname", "") if value.op == "call_function" else ""
    if name in _MAPS:
        inner = scalar(trace, value.args[0])
        return None if inner is None or inner <= 0 else float(_MAPS[name](inner))
    if name in ("mul", "div") and isinstance(value.args[1], (int, float)) and value.args[1]:
        inner = scalar(trace, value.args[0])
        return None if inner is None else inner * value.args[1] if name == "mul" else inner / value.args[1]
    found = constant(trace, value)
    return float(found) if found is not None and found.dim() == 0 and found.dtype != torch.bool else None
