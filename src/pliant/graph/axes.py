"""From dimension terms to axes: the free atoms that reach parameters, named and told apart by what they do."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping
from itertools import takewhile
from typing import Any

import torch
from torch.fx import Node

from .dims import Conflict, Dim, Reason, atoms, unify
from .nouns import Axis, Fixed, Touch
from .rules import SIZES
from .rules.recurrent import RULES as RECURRENT
from .trace import Call, Tracer, is_tensor, module_path, signature

_PRODUCTS = {"matmul", "bmm", "baddbmm"}
_SUMS = {"add", "add_"}
# Operations that leave units out. What no other one takes up is no part of the network on the example.
_PARTS = {"slice", "narrow", "split", "split_with_sizes", "chunk", "tensor_split", "select", "unbind", "getitem"}


def find_axes(trace: Tracer) -> tuple[tuple[Axis, ...], tuple[Fixed, ...]]:
    """Return the axes of a traced network and the dimensions of its parameters that are kept fixed."""
    _couple(trace)
    touches: dict[int, list[Touch]] = {}
    by_id: dict[int, Dim] = {}
    for name, dims in trace.parameters.items():
        for i, dim in enumerate(dims):
            for atom in atoms(dim):
                if atom.size > 1:
                    by_id[id(atom)] = atom
                    touch = Touch(name, i)
                    row = touches.setdefault(id(atom), [])
                    if touch not in row:
                        row.append(touch)
    operations = _operations(trace, by_id)
    used = _used(trace)
    kinds = _kinds(trace)
    trainable = _parameter_names(trace)
    free, fixed = [], []
    for key, atom in by_id.items():
        row = touches[key]
        if not any(touch.tensor in trainable for touch in row):
            continue
        if atom.reason is not None:
            fixed.append(Fixed(_what(row), atom.size, atom.reason))
        elif key in operations and key in used:
            free.append((atom, tuple(row), tuple(operations[key]), kinds.get(key, "width")))
        else:
            fixed.append(Fixed(_what(row), atom.size, Reason("unused", "no operation uses it on the example")))
    return _named(free, trace), tuple(fixed)


def _parameter_names(trace: Tracer) -> set[str]:
    names = trace.capture.aliases
    specs = trace.capture.inputs.values()
    return {names.get(s.target, s.target) for s in specs if s.kind.name == "PARAMETER"}


def _what(row: Iterable[Touch]) -> str:
    shown = [f"{touch.tensor}[{touch.dim}]" for touch in row]
    return ", ".join(shown[:3]) + (f" and {len(shown) - 3} more" if len(shown) > 3 else "")


def _operations(trace: Tracer, wanted: Mapping[int, Dim]) -> dict[int, dict[str, None]]:
    """Map each atom to the operations whose results have it: an atom of parameters alone is an unused part."""
    found: dict[int, dict[str, None]] = {}
    for node, dims in trace.dims.items():
        if node.op != "call_function" or not dims:
            continue
        rows = [dims] if isinstance(dims[0], Dim) else [d for d in dims if d]
        for row in rows:
            for dim in row:
                for atom in atoms(dim):
                    if id(atom) in wanted:
                        found.setdefault(id(atom), {})[node.name] = None
    return found


def _used(trace: Tracer) -> set[int]:
    """Return the atoms that some operation takes in and does not give out again: it multiplies, sums or looks up."""
    known: dict[int, frozenset[int]] = {}

    def inside(dims: Any) -> frozenset[int]:
        if not isinstance(dims, Dim):
            return frozenset().union(*map(inside, dims or ()))
        key = id(dims.root())
        if key not in known:
            known[key] = frozenset(id(atom) for atom in atoms(dims))
        return known[key]

    found: set[int] = set()
    for node in trace.capture.graph.nodes:
        if node.op == "call_function" and _name(node) not in _PARTS:
            # A recurrent layer uses its hidden units itself, step by step.
            out = inside(trace.dims.get(node)) if _name(node) not in RECURRENT else frozenset()
            for source in node.all_input_nodes:
                found |= inside(trace.dims.get(source)) - out
    return found


def _name(node: Node) -> str:
    return getattr(node.target, "__name__", "").partition(".")[0]


def _kinds(trace: Tracer) -> dict[int, str]:
    """Tell heads, per-head widths and residual streams by the operations that they meet in."""
    kinds: dict[int, str] = {}
    weights = {id(node) for node in trace.nodes.values()}
    roots, learned = _roots(trace), _learned(trace)
    for node in trace.dims:
        if node.op != "call_function" or not hasattr(node.target, "_schema"):
            continue
        name = signature(node.target)[0]
        if name == "scaled_dot_product_attention":
            call = Call(node)
            _attention_kinds(trace, (call["query"], call["key"], call["value"]), kinds)
        elif name == "einsum":
            _einsum_kinds(trace, node, kinds, weights, learned)
        elif name in _PRODUCTS:
            pair = [a for a in node.args if isinstance(a, Node) and is_tensor(a)]
            rank = min((len(trace.dims.get(a) or ()) for a in pair), default=0)
            if len(pair) == 2 and rank > 2 and not any(id(a) in weights for a in pair) and learned.issuperset(pair):
                _attention_kinds(trace, pair, kinds)
        elif name in _SUMS:
            _stream_kinds(trace, node, kinds, weights, roots)
    return kinds


def _couple(trace: Tracer) -> None:
    """Tie per-head widths of equal size that one module writes as sizes: its code has one number for all of them.

    The widths of values and of queries are free of each other in theory; but users' classes say ``head_dim`` once, and
    fused attention kernels want them equal.
    """
    kinds = _kinds(trace)
    widths: dict[tuple[str, int], list[Dim]] = {}
    for node, dims in trace.dims.items():
        if node.op != "call_function" or not dims or not hasattr(node.target, "_schema"):
            continue
        if signature(node.target)[0] not in SIZES:
            continue
        for row in [dims] if isinstance(dims[0], Dim) else dims:
            for dim in row or ():
                # A fixed dimension that happens to have the same size, such as the tokens, is none of them.
                if dim.size > 1 and all(
                    kinds.get(id(atom)) == "head_width" and atom.reason is None for atom in atoms(dim)
                ):
                    widths.setdefault((module_path(node), dim.root().size), []).append(dim)
    for found in widths.values():
        if any(atom.reason is None for dim in found for atom in atoms(dim)):
            for other in found[1:]:
                with contextlib.suppress(Conflict):
                    unify(found[0], other)


def _attention_kinds(trace: Tracer, operands: Iterable[Any], kinds: dict[int, str]) -> None:
    for operand in operands:
        dims: list[Dim] = trace.dims.get(operand) or []
        if len(dims) < 3:
            continue
        for dim in dims[-2:]:
            for atom in atoms(dim):
                kinds[id(atom)] = "head_width"
        for dim in dims[:-2]:
            inner = [atom for atom in atoms(dim) if atom.reason is None]  # a batch may stand before the heads
            for k, atom in enumerate(inner):
                kinds[id(atom)] = "group" if k and dim is dims[-3] else "heads"


def _learned(trace: Tracer) -> set[Node]:
    """Return the activations that weights were needed for: a graph's adjacency is a given, no attention to anything."""
    names = _parameter_names(trace)
    found = {node for name, node in trace.nodes.items() if name in names}
    for node in trace.capture.graph.nodes:
        if any(source in found for source in node.all_input_nodes):
            found.add(node)
    return found


def _einsum_kinds(trace: Tracer, node: Node, kinds: dict[int, str], weights: set[int], learned: set[Node]) -> None:
    """Two activations multiplied: letters of both and of the result are heads, the others widths (or positions)."""
    left, _, right = str(node.args[0]).replace(" ", "").partition("->")
    specs = left.split(",")
    operands: Any = node.args[1]
    if len(specs) != 2 or "." in left or any(id(a) in weights for a in operands) or not learned.issuperset(operands):
        return
    for spec, operand in zip(specs, operands, strict=True):
        for letter, dim in zip(spec, trace.dims.get(operand) or [], strict=False):
            shared = letter in specs[0] and letter in specs[1] and letter in right
            for atom in atoms(dim):
                kinds[id(atom)] = "heads" if shared else "head_width"


def _stream_kinds(trace: Tracer, node: Node, kinds: dict[int, str], weights: set[int], roots: dict[Node, Node]) -> None:
    pair = [a for a in node.args if is_tensor(a) and id(a) not in weights]
    terms = [[dim.size for dim in trace.dims.get(a) or []] for a in pair]  # type: ignore[arg-type]
    if len(pair) != 2 or terms[0] != terms[1] or roots[pair[0]] is roots[pair[1]]:  # type: ignore[index]
        return
    for dim in trace.dims.get(node) or []:
        for atom in atoms(dim):
            kinds.setdefault(id(atom), "stream")


def _roots(trace: Tracer) -> dict[Node, Node]:
    """Map each activation to what it is a function of, element by element: two functions of one value are no stream."""
    roots: dict[Node, Node] = {}
    for node in trace.capture.graph.nodes:
        found = {roots[a] for a in node.all_input_nodes}
        pointwise = hasattr(node.target, "_schema") and torch.Tag.pointwise in node.target.tags
        roots[node] = found.pop() if pointwise and len(found) == 1 else node
    return roots


def _named(free: list[tuple[Dim, tuple[Touch, ...], tuple[str, ...], str]], trace: Tracer) -> tuple[Axis, ...]:
    """Name axes after the module that holds everything they touch, or the first that makes them."""
    trainable = _parameter_names(trace)
    order = {node.name: i for i, node in enumerate(trace.capture.graph.nodes)}
    free.sort(key=lambda item: min(order[op] for op in item[2]))
    short, long = [], []
    for _, row, _, kind in free:
        owners = [touch.tensor.rpartition(".")[0] for touch in row if touch.tensor in trainable]
        common = owners[0] if len(set(owners)) == 1 else _common(owners)
        short.append(f"{common}.{kind}" if common else kind)
        long.append(f"{owners[0]}.{kind}" if owners[0] else kind)
    names: list[str] = []
    for i, name in enumerate(short):
        best = name if short.count(name) == 1 and (name != "width") else long[i]
        copy, k = best, 2
        while copy in names:
            copy, k = f"{best}{k}", k + 1
        names.append(copy)
    return tuple(
        Axis(name, kind, atom.size, row, ops, atom) for name, (atom, row, ops, kind) in zip(names, free, strict=True)
    )


def _common(paths: list[str]) -> str:
    rows = [path.split(".") for path in paths]
    shared = takewhile(lambda column: len(set(column)) == 1, zip(*rows, strict=False))
    return ".".join(column[0] for column in shared)
