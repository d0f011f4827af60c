"""Costs of smaller networks from the terms alone: nothing is built, and thousands are counted at once.

An operation with products costs the product of the sizes of some of its dimensions; which ones, is known by operation.
Where a count would not be certain, there is none.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.fx import Node

from .analysis import Analysis
from .dims import Dim, atoms
from .trace import Call, Tracer

Product = list[Dim]


@dataclass(frozen=True)
class _Term:
    """``factor`` times the sizes of ``dims``, where none of the blocks (positions) in ``inside`` is left out."""

    factor: float
    dims: tuple[Dim, ...]
    inside: frozenset[int]


class Costs:
    """Counts multiply-accumulates and parameters of a network's smaller versions.

    Args:
        analysis: of the full network.

    Raises:
        LookupError: the graph holds an operation with products whose cost is not known from its dimensions.
    """

    def __init__(self, analysis: Analysis) -> None:
        self._axes = {axis.atom.root(): at for at, axis in enumerate(analysis.axes)}
        self.macs_terms = self._summed(self._operations(analysis))
        self.params_terms = self._summed(self._parameters(analysis))

    def _operations(self, analysis: Analysis) -> Iterable[_Term]:
        trace = analysis.trace
        inside: dict[Node, set[int]] = {}
        for at, block in enumerate(analysis.blocks):
            for node in block.region:
                inside.setdefault(node, set()).add(at)
        for node in trace.capture.graph.nodes:
            if node.op != "call_function":
                continue
            call = Call(node) if hasattr(node.target, "_schema") else None
            if call is None or call.name in _FREE or not _computes(node):
                continue
            for dims in products(trace, call):
                yield self._term(dims, frozenset(inside.get(node, ())))

    def _parameters(self, analysis: Analysis) -> Iterable[_Term]:
        capture, trace = analysis.capture, analysis.trace
        names: dict[str, list[str]] = {}
        for name, first in capture.aliases.items():
            names.setdefault(first, []).append(name)
        for name in capture.program.graph_signature.parameters:
            if capture.aliases.get(name, name) != name:
                continue
            dims = trace.parameters.get(name)
            if dims is None:
                raise LookupError(f"the parameter {name} has no terms")
            homes = names.get(name, [name])
            holders = [
                {at for at, block in enumerate(analysis.blocks) if place.startswith(f"{block.module}.")}
                for place in homes
            ]
            if len(homes) > 1 and all(holders):
                raise LookupError(f"the parameter {name} is in several blocks")
            yield self._term(list(dims), frozenset(holders[0] if all(holders) else ()))

    def _term(self, dims: Iterable[Dim], inside: frozenset[int]) -> _Term:
        factor, free = 1.0, []
        for dim in dims:
            if any(atom in self._axes for atom in atoms(dim)):
                free.append(dim.root())
            else:
                factor *= dim.root().size
        return _Term(factor, tuple(sorted(free, key=id)), inside)

    def _summed(self, terms: Iterable[_Term]) -> list[_Term]:
        """Add up terms of equal dimensions in equal blocks, so that a stack of layers costs little to count."""
        found: dict[tuple[tuple[int, ...], frozenset[int]], _Term] = {}
        for term in terms:
            key = tuple(map(id, term.dims)), term.inside
            before = found[key].factor if key in found else 0.0
            found[key] = _Term(before + term.factor, term.dims, term.inside)
        return list(found.values())

    def macs(self, sizes: np.ndarray, dropped: np.ndarray) -> np.ndarray:
        """Return multiply-accumulates (n,) on the example's batch.

        Args:
            sizes: units that stay of each axis, (n, axes), in the analysis' order.
            dropped: which blocks are left out, (n, blocks) of bools, in the analysis' order.
        """
        return self._count(self.macs_terms, sizes, dropped)

    def params(self, sizes: np.ndarray, dropped: np.ndarray) -> np.ndarray:
        """Return distinct parameters (n,); arguments as for :meth:`macs`."""
        return self._count(self.params_terms, sizes, dropped)

    def _count(self, terms: Sequence[_Term], sizes: np.ndarray, dropped: np.ndarray) -> np.ndarray:
        known: dict[Dim, np.ndarray | float] = {}
        there: dict[frozenset[int], Any] = {frozenset(): 1.0}
        total = np.zeros(len(sizes))
        for term in terms:
            if term.inside not in there:
                there[term.inside] = ~dropped[:, sorted(term.inside)].any(axis=1)
            value: Any = term.factor * there[term.inside]
            for dim in term.dims:
                value = value * self._size(dim, sizes, known)
            total += value
        return total

    def _size(self, dim: Dim, sizes: np.ndarray, known: dict[Dim, np.ndarray | float]) -> np.ndarray | float:
        dim = dim.root()
        if dim not in known:
            if dim.kind == "atom":
                at = self._axes.get(dim)
                known[dim] = float(dim.size) if at is None else sizes[:, at].astype(float)
            else:
                parts = [self._size(part, sizes, known) for part in dim.parts]
                combine: Callable[..., Any] = math.prod if dim.kind == "product" else sum
                known[dim] = combine(parts)
        return known[dim]


def products(trace: Tracer, call: Call) -> list[Product]:
    """Return for an operation the dimensions whose sizes multiply to its multiply-accumulates; one list per product.

    Raises:
        LookupError: they are not known.
    """
    rule = _PRODUCTS.get(call.name)
    if rule is None:
        if call.name in _OTHERS or "mm" in call.name.split("_") or "attention" in call.name:
            raise LookupError(f"the cost of {call.name} is not known")
        return []
    try:
        return rule(trace, call)
    except Exception as error:  # whatever a term does not say
        raise LookupError(f"the cost of {call.name} is not known: {error}") from error


def _linear(trace: Tracer, call: Call) -> list[Product]:
    return [[*trace.of(call.node), trace.of(call["input"])[-1]]]


def _matmul(left: str) -> Callable[[Tracer, Call], list[Product]]:
    return lambda trace, call: [[*trace.of(call.node), trace.of(call[left])[-1]]]


def _convolution(trace: Tracer, call: Call) -> list[Product]:
    return [[*trace.of(call.node), *trace.of(call["weight"])[1:]]]


def _transposed(trace: Tracer, call: Call) -> list[Product]:
    return [[*trace.of(call["input"]), *trace.of(call["weight"])[1:]]]


def _attention(trace: Tracer, call: Call) -> list[Product]:
    query, key, value = (trace.of(call[name]) for name in ("query", "key", "value"))
    scores = [*query[:-1], key[-2]]
    return [[*scores, query[-1]], [*scores, value[-1]]]


def _einsum(trace: Tracer, call: Call) -> list[Product]:
    operands = list(call["tensors"])
    inputs = str(call["equation"]).replace(" ", "").partition("->")[0].split(",")
    if len(operands) != 2 or any("." in letters for letters in inputs):
        raise LookupError("more or less than two operands, or an ellipsis")
    found: dict[str, Dim] = {}
    for letters, operand in zip(inputs, operands, strict=True):
        for letter, dim in zip(letters, trace.of(operand), strict=True):
            if letter not in found or found[letter].root().size == 1:
                found[letter] = dim
    return [list(found.values())]


_PRODUCTS: dict[str, Callable[[Tracer, Call], list[Product]]] = {
    "linear": _linear,
    "matmul": _matmul("self"),
    "mm": _matmul("self"),
    "bmm": _matmul("self"),
    "addmm": _matmul("mat1"),
    "baddbmm": _matmul("batch1"),
    "mv": _matmul("self"),
    "scaled_dot_product_attention": _attention,
    "einsum": _einsum,
    **dict.fromkeys(("conv1d", "conv2d", "conv3d", "convolution", "_convolution"), _convolution),
    **dict.fromkeys(("conv_transpose1d", "conv_transpose2d", "conv_transpose3d"), _transposed),
}
_OTHERS = {
    "lstm",
    "gru",
    "rnn_tanh",
    "rnn_relu",
    "lstm_cell",
    "gru_cell",
    "bilinear",
    "dot",
    "vdot",
    "addmv",
    "tensordot",
    "inner",
    "cdist",
    "addbmm",
    "linalg_vecdot",
}
_FREE = {"sym_size", "_assert_tensor_metadata"}


def _computes(node: Node) -> bool:
    value = node.meta.get("val")
    return isinstance(value, torch.Tensor) or (isinstance(value, (list, tuple)) and bool(value))
