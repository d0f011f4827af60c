"""The independent reference of a cut: the full network with the same units' weights set to zero.

It holds for axes over which nothing is normalised or averaged: those are told here by the operations' own arguments.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from typing import Any

from torch import Tensor, nn
from torch.fx import Node

from pliant.graph import Analysis
from pliant.graph.dims import Dim, atoms
from pliant.graph.nouns import Axis
from pliant.graph.realise import difference, outputs, sliced_copy
from pliant.graph.slicing import Slicing
from pliant.graph.trace import Call
from tests.graph.support import masked

_LAST = {"layer_norm", "rms_norm", "native_layer_norm"}
_DIM = {"softmax", "_softmax", "log_softmax", "_log_softmax", "_safe_softmax", "logcumsumexp"}
_SOFTMAX = {"softmax", "_softmax", "_safe_softmax"}
_PRODUCTS = {"matmul", "bmm", "baddbmm", "einsum"}
_REDUCE = {"mean", "var", "std", "var_mean", "std_mean", "amax", "amin", "max", "min", "median", "prod", "logsumexp"}


def normalised(analysis: Analysis) -> set[int]:
    """Return the ids of the atoms over which a mean, a norm, a softmax or an extreme runs."""
    found: set[int] = set()
    for node in analysis.capture.graph.nodes:
        if node.op == "call_function" and hasattr(node.target, "_schema"):
            for dim in _reduced(analysis, node):
                found.update(id(atom) for atom in atoms(dim))
    return found


def attends(analysis: Analysis) -> bool:
    """Tell whether a network has attention: a softmax over products of two activations, fused or written out."""
    nodes = list(analysis.capture.graph.nodes)
    if any(_opname(node) == "scaled_dot_product_attention" for node in nodes):
        return True
    weights = set(analysis.trace.nodes.values())
    products = [node for node in nodes if _opname(node) in _PRODUCTS]
    scores = {node for node in products if not any(_origin(a) in weights for a in node.all_input_nodes)}
    return any(scores & _sources(node, 8, scores) for node in nodes if _opname(node) in _SOFTMAX)


def _opname(node: Node) -> str:
    return getattr(node.target, "_opname", "") if node.op == "call_function" else ""


def _origin(node: Node) -> Node:
    """Return what a node is a view or a cast of."""
    while node.op == "call_function" and len(node.all_input_nodes) == 1:
        node = node.all_input_nodes[0]
    return node


def _sources(node: Node, steps: int, end: set[Node]) -> set[Node]:
    """Return what a node is made of, at most ``steps`` back, and not beyond ``end``."""
    found: set[Node] = set()
    rim = {node}
    for _ in range(steps):
        rim = {source for one in rim if one not in end for source in one.all_input_nodes} - found
        found |= rim
    return found


def _reduced(analysis: Analysis, node: Node) -> Iterator[Dim]:
    call = Call(node)
    if call.name in _LAST:
        count = len(call.get("normalized_shape") or [1])
        yield from _dims(analysis, call.get("input", call.first))[-count:]
    elif call.name in ("group_norm", "native_group_norm"):
        yield from _dims(analysis, call["input"])[1:2]
    elif call.name == "scaled_dot_product_attention":
        yield from _dims(analysis, call["key"])[-2:-1]
        if call.get("scale") is None:  # it is one over the root of the width
            yield from _dims(analysis, call["query"])[-1:]
    elif call.name == "_weight_norm":  # zero over zero
        yield from _dims(analysis, call["v"])
    elif call.name in _DIM:
        yield _dims(analysis, call.first)[call["dim"]]
    elif call.name in _REDUCE:
        dims, asked = _dims(analysis, call.first), call.get("dim")
        wanted = range(len(dims)) if asked in (None, []) else [asked] if isinstance(asked, int) else asked
        yield from (dims[i] for i in wanted)


def _dims(analysis: Analysis, node: Any) -> list[Dim]:
    return analysis.trace.dims.get(node) or []


def maskable(analysis: Analysis) -> list[Axis]:
    """Return the axes for which zeroed weights stand for cut ones."""
    without = normalised(analysis)
    return [axis for axis in analysis.axes if id(axis.atom.root()) not in without]


class Masks:
    """Compares cuts of some axes with the masked original."""

    def __init__(self, model: nn.Module, analysis: Analysis, args: Sequence[Any], kwargs: dict[str, Any]) -> None:
        self.model, self.analysis, self.args, self.kwargs = model, analysis, args, kwargs
        rng = random.Random(8)
        self.keep = {a.name: rng.sample(range(a.size), max(1, a.size // 2)) for a in maskable(analysis)}

    def gap(self, axes: Sequence[str]) -> float:
        """Return how far the cut of ``axes`` is from the masked original, relative to the outputs' scale."""
        slicing = Slicing(self.analysis, {name: self.keep[name] for name in axes})
        cut = self._run(sliced_copy(self.model, slicing, "graph"))
        return difference(cut, self._run(masked(self.model, slicing)))

    def failures(self, tolerance: float, most: int = 40) -> list[str]:
        """Return the axes whose own cut differs, found by halving; at most ``most`` comparisons."""
        todo, found = [list(self.keep)], []
        while todo and most:
            axes, most = todo.pop(), most - 1
            if self.gap(axes) <= tolerance:
                continue
            if len(axes) == 1:
                found += axes
                continue
            todo += [axes[: len(axes) // 2], axes[len(axes) // 2 :]]
        return found

    def _run(self, net: nn.Module) -> list[Tensor]:
        return outputs(net, self.args, self.kwargs)
