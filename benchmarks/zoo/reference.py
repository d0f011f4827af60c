"""The independent reference of a cut: the full network with the same units' weights set to zero.

The user's own class with zeros stands for a cut of the axes over which nothing is normalised or averaged: those are
told here by the operations' own arguments. For the others, see `kept_norms`: there norms run over what stays.
"""

from __future__ import annotations

import copy
import random
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import Node

from pliant.graph import Analysis
from pliant.graph.dims import Dim, atoms
from pliant.graph.realise import difference, outputs, sliced_copy
from pliant.graph.slicing import Slicing
from pliant.graph.trace import Call
from tests.graph.support import masked

from .kept_norms import SOFTMAX, kept_outputs, reduced

# Norms that no reference here follows; they appear only where a capture has taken composite operations apart.
_UNFOLLOWED = {"native_layer_norm", "native_group_norm", "log_softmax", "_log_softmax", "logcumsumexp"}
_NEUTRAL = {"sum", "nansum", "linalg_vector_norm", "norm", "linalg_norm", "frobenius_norm"}  # zeros change none of them
_PRODUCTS = {"matmul", "bmm", "baddbmm", "einsum"}


def _livelier(model: nn.Module) -> nn.Module:
    """Return a copy with larger weights: fresh attention hardly tells its keys apart, which would hide mistakes."""
    net = copy.deepcopy(model)
    generator = torch.Generator().manual_seed(9)
    with torch.no_grad():
        for parameter in net.parameters():
            if parameter.dim() > 1 and parameter.is_floating_point():
                noise = torch.randn(parameter.shape, generator=generator).to(parameter)
                parameter.add_(noise, alpha=0.3 * min(1.0, max(1, parameter[0].numel()) ** -0.5))
    return net


def _atoms(analysis: Analysis, dims_of: Callable[[Analysis, Call], Iterator[Dim]]) -> set[int]:
    """Return the ids of the atoms of the dimensions that ``dims_of`` gives for the operations of the graph."""
    calls = [Call(n) for n in analysis.capture.graph.nodes if n.op == "call_function" and hasattr(n.target, "_schema")]
    return {id(atom) for call in calls for dim in dims_of(analysis, call) for atom in atoms(dim)}


def attends(analysis: Analysis) -> bool:
    """Tell whether a network has attention: a softmax over products of two activations, fused or written out."""
    nodes = list(analysis.capture.graph.nodes)
    if any(_opname(node) == "scaled_dot_product_attention" for node in nodes):
        return True
    weights = set(analysis.trace.nodes.values())
    products = [node for node in nodes if _opname(node) in _PRODUCTS]
    scores = {node for node in products if not any(_origin(a) in weights for a in node.all_input_nodes)}
    return any(scores & _sources(node, 8, scores) for node in nodes if _opname(node) in SOFTMAX)


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


def _normalised(analysis: Analysis, call: Call) -> Iterator[Dim]:
    """Yield the dimensions over which a mean, a norm, a softmax or an extreme runs: it counts zeros."""
    yield from _not_followed(analysis, call)
    dims = _dims(analysis, call.first)
    if call.name == "scaled_dot_product_attention" and call.get("scale") is None:
        yield from _dims(analysis, call["query"])[-1:]  # the scale is one over the root of the width
    elif call.name == "_weight_norm":  # zero over zero
        yield from _dims(analysis, call["v"])
    elif call.name not in _NEUTRAL:
        yield from (dims[d] for d in reduced(call, len(dims)))


def _not_followed(analysis: Analysis, call: Call) -> Iterator[Dim]:
    """Yield the dimensions whose cut has no reference here."""
    if call.name == "scaled_dot_product_attention":
        yield from _dims(analysis, call["key"])[-2:-1]
    elif call.name in _UNFOLLOWED:
        yield from _dims(analysis, call.first)


def _dims(analysis: Analysis, node: Any) -> list[Dim]:
    return analysis.trace.dims.get(node) or []


class Masks:
    """Compares cuts of some axes with the masked original.

    ``keep`` holds what stays of the axes for which the user's class with zeroed weights is the reference;
    ``keep_norms`` what stays of these and of the others, for which norms must run over what stays.
    """

    def __init__(self, model: nn.Module, analysis: Analysis, args: Sequence[Any], kwargs: dict[str, Any]) -> None:
        self.model, self.analysis, self.args, self.kwargs = _livelier(model), analysis, args, kwargs
        rng = random.Random(8)
        normalised, without = _atoms(analysis, _normalised), _atoms(analysis, _not_followed)
        halves = {a.name: rng.sample(range(a.size), max(1, a.size // 2)) for a in analysis.axes}
        atom = {axis.name: id(axis.atom.root()) for axis in analysis.axes}
        self.keep = {name: kept for name, kept in halves.items() if atom[name] not in normalised}
        self.keep_norms = {name: kept for name, kept in halves.items() if atom[name] not in without}

    def gap(self, axes: Sequence[str]) -> float:
        """Return how far the cut of ``axes`` is from the masked original, relative to the outputs' scale."""
        slicing = self._slicing(axes)
        return difference(self._cut(slicing), outputs(masked(self.model, slicing), self.args, self.kwargs))

    def gap_norms(self, axes: Sequence[str]) -> float:
        """Return the same where the original's norms run over what stays."""
        slicing = self._slicing(axes)
        reference = kept_outputs(masked(self.model, slicing), slicing, self.args, self.kwargs)
        return difference(self._cut(slicing), reference)

    @staticmethod
    def failures(
        gap: Callable[[Sequence[str]], float], axes: Sequence[str], tolerance: float, most: int = 40
    ) -> list[str]:
        """Return the axes whose own cut differs by ``gap``, found by halving; at most ``most`` comparisons."""
        todo, found = [list(axes)], []
        while todo and most:
            axes, most = todo.pop(), most - 1
            if gap(axes) <= tolerance:
                continue
            if len(axes) == 1:
                found += axes
                continue
            todo += [axes[: len(axes) // 2], axes[len(axes) // 2 :]]
        return found

    def _slicing(self, axes: Sequence[str]) -> Slicing:
        return Slicing(self.analysis, {name: self.keep_norms[name] for name in axes})

    def _cut(self, slicing: Slicing) -> list[Tensor]:
        return outputs(sliced_copy(self.model, slicing, "graph"), self.args, self.kwargs)
