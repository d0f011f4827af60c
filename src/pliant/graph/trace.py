"""One pass over a captured graph that gives every dimension of every tensor its term.

The rules of the operations stand in `rules/`, one file per group. A rule that meets a structure that it cannot follow
raises :class:`Conflict`; an operation without a rule is unknown. In both cases the dimensions that it touches are
frozen, with the reason, and the pass goes on.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from typing import Any

import torch
from torch.fx import Node

from .capture import Capture
from .dims import Conflict, Dim, Reason, freeze, split_concat, split_product, unify

Dims = list[Dim]
Rule = Callable[["Tracer", "Call"], None]


@cache
def signature(target: Any) -> tuple[str, tuple[tuple[str, Any], ...]]:
    """Return the operation's plain name and its arguments with their defaults."""
    schema = target._schema
    arguments = tuple((a.name, a.default_value if a.has_default_value() else None) for a in schema.arguments)
    return schema.name.partition("::")[2], arguments


class Call:
    """One operation of the graph with its arguments by name (``call["dim"]``) and its output value."""

    __slots__ = ("args", "first", "name", "node")

    def __init__(self, node: Node) -> None:
        self.node = node
        self.name, arguments = signature(node.target)
        given = node.args
        self.args: dict[str, Any] = {
            name: given[i] if i < len(given) else node.kwargs.get(name, default)
            for i, (name, default) in enumerate(arguments)
        }
        self.first: Any = given[0] if given else (self.args[arguments[0][0]] if arguments else None)

    def __getitem__(self, name: str) -> Any:
        return self.args[name]

    def get(self, name: str, default: Any = None) -> Any:
        """Return an argument, or ``default`` where this overload has no such argument."""
        return self.args.get(name, default)

    @property
    def out(self) -> Any:
        """The fake value of the result: a tensor, or a list of them."""
        return self.node.meta.get("val")


def is_tensor(value: Any) -> bool:
    """Tell whether ``value`` is a node that holds one tensor."""
    return isinstance(value, Node) and isinstance(value.meta.get("val"), torch.Tensor)


def module_path(node: Node) -> str:
    """Return the path of the innermost module that a node belongs to; ``""`` is the network itself."""
    stack = node.meta.get("nn_module_stack")
    return list(stack.values())[-1][0].split("@")[0] if stack else ""


def place(node: Node) -> str:
    """Return where in the user's code a node comes from: module path and operation."""
    return f"{module_path(node) or 'forward'}: {getattr(node.target, '__name__', node.name)}"


class Tracer:
    """The dimension terms of a captured graph.

    ``dims[node]`` holds one term per dimension, or a list of such lists for a node with several outputs.
    ``parameters`` maps each parameter, buffer and constant to its terms.
    """

    def __init__(self, capture: Capture) -> None:
        self.capture = capture
        self.dims: dict[Node, Any] = {}
        self.parameters: dict[str, Dims] = {}
        self.nodes: dict[str, Node] = {}
        self.unknown: dict[str, int] = {}
        self.opaque: set[Node] = set()  # operations that no rule followed: everything that they touch is fixed
        self.notes: dict[Node, list[Dim]] = {}  # terms that a rule keeps for its size rule: these must not refine anew
        self._batch = _batch_size(capture)

    # ---- what rules use -------------------------------------------------------------------------------------------
    def of(self, node: Any) -> Dims:
        """Return the terms of a one-tensor node."""
        dims = self.dims.get(node)
        if dims is None or (dims and not isinstance(dims[0], Dim)):
            raise Conflict(f"{node} holds no single tensor")
        return list(dims)

    def set(self, call: Call, dims: Sequence[Any]) -> None:
        """Give the result of ``call`` its terms."""
        self.dims[call.node] = list(dims)

    def tie(self, a: Dim, b: Dim, node: Node) -> None:
        """Unify two terms; freeze both where their structures cannot be aligned."""
        try:
            unify(a, b)
        except Conflict as conflict:
            reason = Reason("structure", f"its structure cannot be followed: {conflict}", place(node))
            freeze(a, reason)
            freeze(b, reason)

    def factors(self, dim: Dim, sizes: Sequence[int], node: Node) -> Dims:
        """View ``dim`` as a product; where it has another structure it is kept, and its factors have fixed sizes."""
        return self._parts(split_product, dim, sizes, node)

    def segments(self, dim: Dim, sizes: Sequence[int], node: Node) -> Dims:
        """View ``dim`` as a concatenation; where it has another structure it is kept, and so are its segments."""
        return self._parts(split_concat, dim, sizes, node)

    def _parts(self, split: Callable[..., Dims], dim: Dim, sizes: Sequence[int], node: Node) -> Dims:
        try:
            return split(dim, sizes)
        except Conflict as conflict:
            reason = Reason("structure", f"its structure cannot be followed: {conflict}", place(node))
            freeze(dim, reason)
            return [Dim(int(size), reason) for size in sizes]

    def freeze(self, dim: Dim, code: str, text: str, node: Node | None = None) -> None:
        """Keep ``dim`` as it is, for a reason."""
        freeze(dim, Reason(code, text, place(node) if node is not None else ""))

    def fixed(self, sizes: Sequence[Any], code: str, text: str, node: Node | None = None) -> Dims:
        """Make fresh frozen terms for dimensions that carry no axis, such as image height and width."""
        reason = Reason(code, text, place(node) if node is not None else "")
        return [Dim(int(size), reason) for size in sizes]

    # ---- the pass -------------------------------------------------------------------------------------------------
    def run(self, rules: Mapping[str, Rule]) -> Tracer:
        """Trace the whole graph with ``rules`` (operation name to rule)."""
        for node in self.capture.graph.nodes:
            if node.op == "placeholder":
                self._placeholder(node)
            elif node.op == "output":
                self._output(node)
            elif node.op == "call_function":
                self._operation(node, rules)
            else:
                self.dims[node] = self._fresh(node, "constant", "a constant of the code")
        return self

    def _placeholder(self, node: Node) -> None:
        spec = self.capture.inputs[str(node.target)]
        kind, value = spec.kind.name, node.meta.get("val")
        if not isinstance(value, torch.Tensor):
            self.dims[node] = None
        elif kind in ("PARAMETER", "BUFFER", "CONSTANT_TENSOR"):
            name = self.capture.aliases.get(spec.target, spec.target)
            if name not in self.parameters:
                self.parameters[name] = [Dim(int(size)) for size in value.shape]
                self.nodes[name] = node
            self.dims[node] = list(self.parameters[name])
            if name in self.capture.scope.pinned:
                for dim in self.dims[node]:
                    self.freeze(dim, "outside", self.capture.scope.pinned[name])
            if kind == "CONSTANT_TENSOR":  # the user's own code makes it anew each time, in its full size
                for dim in self.dims[node]:
                    self.freeze(dim, "constant", "a constant tensor that the code makes")
        else:
            self.dims[node] = self.fixed(value.shape, "input", f"a size of the input {str(node.target)!r}")
            if value.dim() and int(value.shape[0]) == self._batch:
                self.dims[node][0].source = (node.name, 0)

    def _output(self, node: Node) -> None:
        for value in node.all_input_nodes:
            for dim in _tensor_dims(self.dims.get(value)):
                self.freeze(dim, "output", "a size of the network's output")

    def _operation(self, node: Node, rules: Mapping[str, Rule]) -> None:
        if node.target is operator.getitem:
            source = self.dims.get(node.args[0])  # type: ignore[arg-type]
            self.dims[node] = source[node.args[1]] if source else None
            return
        if not hasattr(node.target, "_schema"):
            if node.meta.get("val") is not None and getattr(node.target, "__module__", "") != "_operator":
                name = getattr(node.target, "__name__", str(node.target))
                self._give_up(node, "operation", f"Pliant has no rule for the operation {name!r}")
            self.dims.setdefault(node, None)
            return
        call = Call(node)
        if _symbolic(call.out):
            self._give_up(node, "data", "its size depends on the data, not only on the sizes of the inputs")
            return
        rule = rules.get(call.name)
        if rule is None and torch.Tag.pointwise in node.target.tags:  # type: ignore[union-attr]
            rule = rules["pointwise"]
        if rule is None:
            self.unknown[call.name] = self.unknown.get(call.name, 0) + 1
            self._give_up(node, "operation", f"Pliant has no rule for the operation {call.name!r}")
            return
        try:
            rule(self, call)
            if not _fits(self.dims[node], call.out):
                raise Conflict(f"the rule for {call.name!r} gives other sizes than the operation")
        except Conflict as conflict:
            self._give_up(node, "structure", f"its structure cannot be followed: {conflict}")
        except Exception as error:  # noqa: BLE001  (a rule that fails must cost compression, never the analysis)
            self._give_up(node, "rule", f"the rule for {call.name!r} failed ({type(error).__name__}: {error})")

    def _give_up(self, node: Node, code: str, text: str) -> None:
        self.opaque.add(node)
        for value in node.all_input_nodes:
            for dim in _tensor_dims(self.dims.get(value)):
                self.freeze(dim, code, text, node)
        self.dims[node] = self._fresh(node, code, text)

    def _fresh(self, node: Node, code: str, text: str) -> Any:
        value = node.meta.get("val")
        if isinstance(value, torch.Tensor):
            return None if _symbolic(value) else self.fixed(value.shape, code, text, node)
        if isinstance(value, (list, tuple)):
            return [
                self.fixed(v.shape, code, text, node) if isinstance(v, torch.Tensor) and not _symbolic(v) else None
                for v in value
            ]
        return None


def _tensor_dims(dims: Any) -> Iterator[Dim]:
    if isinstance(dims, Dim):
        yield dims
    elif dims is not None:
        for inner in dims:
            yield from _tensor_dims(inner)


def _symbolic(value: Any) -> bool:
    """Tell whether a size of a fake value is only known when the network runs."""
    if isinstance(value, torch.Tensor):
        return not all(isinstance(size, int) for size in value.shape)
    return isinstance(value, (list, tuple)) and any(map(_symbolic, value))


def _fits(dims: Any, value: Any) -> bool:
    """Tell whether terms have the sizes of a fake value; a rule that forgot a case is caught here."""
    if isinstance(value, torch.Tensor):
        return (
            dims is not None
            and len(dims) == value.dim()
            and all(isinstance(d, Dim) and d.size == int(s) for d, s in zip(dims, value.shape, strict=True))
        )
    if isinstance(value, (list, tuple)):
        return len(dims or ()) == len(value) and all(map(_fits, dims or (), value))
    return True


def _batch_size(capture: Capture) -> int | None:
    """Return the first dimension of the first tensor input, the batch, if it can be told apart from a size of 1."""
    for node in capture.graph.nodes:
        if node.op == "placeholder" and capture.inputs[str(node.target)].kind.name == "USER_INPUT":
            value = node.meta.get("val")
            if isinstance(value, torch.Tensor) and value.dim():
                size = int(value.shape[0])
                return size if size > 1 else None
    return None
