"""The graph form of a smaller network: the captured graph with its size arguments recomputed from the terms.

It works wherever the capture works. Sizes of the batch are read from the inputs when the network runs.
"""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from itertools import product
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import Graph, Node, Proxy
from torch.utils import _pytree as pytree

from ..checks import WrongShapeError
from .constants import scalar
from .dims import Dim, atoms
from .rules import SIZES
from .slicing import Slicing
from .tensors import Supply
from .trace import Call, Tracer, signature

_SKIPPED = {"_assert_tensor_metadata", "_assert_scalar", "_assert_async"}

# Operations with a flag that says whether the network trains, and the name of the flag.
_MODES = {
    **dict.fromkeys(("batch_norm", "rrelu", "rrelu_"), "training"),
    **dict.fromkeys(
        ("dropout", "dropout_", "feature_dropout", "alpha_dropout", "feature_alpha_dropout", "native_dropout"), "train"
    ),
    "instance_norm": "use_input_stats",
}


# What scales are of a size: the multiple, and the powers. DeBERTa takes the root of two or three times the width.
Rescale = bool | Set[str]
_STEPS = 4  # operations between a scale and the product that it belongs to
_POWERS = ((1, (0.5, -0.5, 0.25, -0.25, 1.0, -1.0)), (2, (0.5, -0.5)), (3, (0.5, -0.5)))


@dataclass(frozen=True)
class _Structure:
    """How the arguments and the outputs nest; copies of a network share it."""

    inputs: Any
    outputs: Any

    def __deepcopy__(self, memo: dict[int, Any]) -> _Structure:
        return self


class GraphNet(nn.Module):
    """A network that runs a captured graph; its parameters and buffers bear their original names.

    ``rescaled`` names the classes of the user's modules of which constants were computed anew.
    """

    def __init__(self, graph: Graph, tensors: Mapping[str, Tensor], in_spec: Any, out_spec: Any) -> None:
        super().__init__()
        self.rescaled: frozenset[str] = frozenset()
        for name, tensor in tensors.items():
            _register(self, name, tensor)
        for node in graph.find_nodes(op="get_attr"):
            if "region" in node.meta:
                self.add_module(str(node.target), node.meta["region"])
        code = graph.python_code("self")
        scope: dict[str, Any] = dict(code.globals)
        exec(compile(code.src, "<pliant graph form>", "exec"), scope)
        self._run = scope["forward"]
        self._structure = _Structure(in_spec, out_spec)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Run the graph on arguments of the same structure as the example's."""
        wanted = self._structure.inputs
        if kwargs:
            order = wanted.child(1).context if wanted.num_children > 1 else []
            kwargs = {name: kwargs[name] for name in [*(order or []), *kwargs] if name in kwargs}
        flat, spec = pytree.tree_flatten((args, kwargs))
        if spec != wanted:
            raise WrongShapeError(
                f"this network was captured with arguments {wanted}; got {spec}: call it with the same ones"
            )
        return pytree.tree_unflatten(self._run(self, *flat), self._structure.outputs)


def _register(root: nn.Module, name: str, tensor: Tensor) -> None:
    *path, last = name.split(".")
    owner = root
    for part in path:
        if part not in owner._modules:
            owner.add_module(part, nn.Module())
        owner = owner._modules[part]  # type: ignore[assignment]
    if isinstance(tensor, nn.Parameter):
        owner.register_parameter(last, tensor)
    else:
        owner.register_buffer(last, tensor)


def build_graph_form(slicing: Slicing, supply: Supply, rescale: Rescale = False) -> GraphNet:
    """Build the graph form of a slicing.

    Args:
        slicing: what stays.
        supply: gives the (already cut) tensor for each canonical name.
        rescale: recompute constants such as ``1 / sqrt(head_width)`` that the user's forward derives from a size
            which changes; without it they keep their original value. Which one holds depends on the user's code: it
            may be given for some classes of modules by their names.
    """
    trace = slicing.analysis.trace
    builder = _Builder(slicing, trace, supply, rescale)
    for node in trace.capture.graph.nodes:
        builder.add(node)
    builder.graph.lint()
    program = trace.capture.program
    tensors = _unprefixed(builder.graph, builder.tensors, trace.capture.scope.only)
    net = GraphNet(builder.graph, tensors, program.call_spec.in_spec, program.call_spec.out_spec)
    net.rescaled = frozenset(builder.rescaled)
    return net


def _unprefixed(graph: Graph, tensors: Mapping[str, Tensor], only: str) -> Mapping[str, Tensor]:
    """Name the tensors of a submodule that was captured alone as it does itself: the graph will take its place."""
    if not only:
        return tensors
    for node in graph.find_nodes(op="get_attr"):
        node.target = str(node.target).removeprefix(f"{only}.")
    return {name.removeprefix(f"{only}."): tensor for name, tensor in tensors.items()}


class _Builder:
    def __init__(self, slicing: Slicing, trace: Tracer, supply: Supply, rescale: Rescale) -> None:
        self.slicing, self.trace, self.supply, self.rescale = slicing, trace, supply, rescale
        self.rescaled: set[str] = set()
        self.graph = Graph()
        self.env: dict[Node, Any] = {}
        self.tensors: dict[str, Tensor] = {}
        self.replaced = {block.after: block.before for block in slicing.dropped}
        self.skipped = {node for block in slicing.dropped for node in block.region} - set(self.replaced)
        self.batch: dict[tuple[str, int], Any] = {}
        self.sizes: dict[int, Any] = {}

    def add(self, node: Node) -> None:
        """Copy one node of the full graph with its sizes rewritten."""
        if node in self.skipped:
            return
        if node in self.replaced:
            self.env[node] = self.env[self.replaced[node]]
        elif node.op == "placeholder":
            self._placeholder(node)
        elif node.op == "call_function" and hasattr(node.target, "_schema"):
            self._operation(node)
        else:
            self.env[node] = self.graph.node_copy(node, lambda n: self.env[n])

    def _placeholder(self, node: Node) -> None:
        capture = self.trace.capture
        spec = capture.inputs[str(node.target)]
        if spec.kind.name not in ("PARAMETER", "BUFFER", "CONSTANT_TENSOR"):
            self.env[node] = self.graph.node_copy(node)
            return
        name = capture.aliases.get(spec.target, spec.target)
        if name not in self.tensors:
            self.tensors[name] = self.supply(name)
        if spec.target != name:
            self.tensors[spec.target] = self.tensors[name]
        self.env[node] = self.graph.get_attr(name)

    def _operation(self, node: Node) -> None:
        name = signature(node.target)[0]
        if name in _SKIPPED:
            return
        new = self.graph.node_copy(node, lambda n: self.env[n])
        self.env[node] = new
        rule = SIZES.get(name)
        if rule is not None and node not in self.trace.opaque and not _empty(node):
            # The sizes read from inputs must stand before the operation that uses them.
            self.graph.erase_node(new)
            self._resized(node, rule(self.trace, Call(node), self._size))
        elif name in _MODES:
            self._follow_mode(node, new, _MODES[name])
        elif self.rescale is True or (self.rescale and _owner(node) in self.rescale):
            self._rescaled(name, node, new)

    def _resized(self, node: Node, changes: dict[str, Any]) -> None:
        target = changes.pop("target", node.target)
        args, kwargs = list(changes.pop("args", node.args)), dict(node.kwargs)
        if target is not node.target:
            kwargs = {}
        names = [name for name, _ in signature(target)[1]]
        for name, value in changes.items():
            at = names.index(name)
            if name in kwargs or at > len(args):
                kwargs[name] = value
            elif at == len(args):
                args.append(value)
            else:
                args[at] = value
        old = torch.fx.map_arg((tuple(args), kwargs), lambda n: self.env.get(n, n))
        new = pytree.tree_map(lambda v: v.node if isinstance(v, Proxy) else v, old)
        self.env[node] = self.graph.call_function(target, *new)

    def _follow_mode(self, node: Node, new: Node, flag: str) -> None:
        """Let a flag that was captured in evaluation mode follow the network's mode."""
        names = [name for name, _ in signature(node.target)[1]]
        at = names.index(flag)
        if at < len(new.args) and new.args[at] is False:
            args = list(new.args)
            with self.graph.inserting_before(new):
                args[at] = self.graph.get_attr("training")
            new.args = tuple(args)

    def _rescaled(self, name: str, node: Node, new: Node) -> None:
        size = None
        if name in ("mul", "div", "mul_", "div_"):
            value = scalar(self.trace, node.args[1]) if len(node.args) > 1 else None
            size = self._follows(value, self._neighbourhood(node))
            if size is not None:
                new.args = (new.args[0], size)
        elif name == "scaled_dot_product_attention":
            size = self._follows(node.kwargs.get("scale"), [node.args[0]])
            if size is not None:
                new.kwargs = {**new.kwargs, "scale": size}
        if size is not None:
            self.rescaled.add(_owner(node))

    def _follows(self, value: Any, operands: Sequence[Any]) -> float | None:
        """Return the new value of a scale that is a power of (a small multiple of) a size which changes."""
        if not isinstance(value, float) or value in (0.0, 1.0):
            return None
        rows = [self.trace.dims.get(operand) or [] for operand in operands]
        last = [dims[-1] for dims in rows if dims and isinstance(dims[-1], Dim)]  # a split gives several lists
        parts = [part.root() for dim in last for part in (dim, *atoms(dim))]
        for times, powers in _POWERS:
            fits = [(part, p) for part, p in product(parts, powers) if _is(value, (times * part.size) ** p)]
            for part, power in fits:
                size = self.slicing.size(part)
                if size != part.size:
                    return float((times * size) ** power)
            if fits:
                return None  # it is a size that stays: a multiple of another one is chance
        return None

    def _neighbourhood(self, node: Node) -> list[Node]:
        """What is scaled and what it is made of, nearest first: a scale stands before or soon after a product."""
        found: dict[Node, None] = {}
        rim: list[Any] = [node.args[0]]
        for _ in range(_STEPS):
            found |= dict.fromkeys(rim)
            rim = [source for one in rim for source in one.all_input_nodes if source not in found]
        return list(found)

    def _size(self, dim: Dim) -> Any:
        """Return a size: a number, or where the batch is in it a value computed from the input."""
        dim = dim.root()
        if dim.kind == "atom":
            return self._batch(dim) if dim.source is not None else self.slicing.size(dim)
        parts = [self._size(part) for part in dim.parts]
        combine = operator.mul if dim.kind == "product" else operator.add
        known = [part for part in parts if isinstance(part, int)]
        total: Any = None
        for part in parts:
            if not isinstance(part, int):
                total = part if total is None else combine(total, part)
        for part in known:
            total = part if total is None else combine(total, part)
        return total

    def _batch(self, dim: Dim) -> Any:
        assert dim.source is not None
        if dim.source not in self.batch:
            name, at = dim.source
            node = self.env[next(n for n in self.trace.capture.graph.find_nodes(op="placeholder") if n.name == name)]
            with self.graph.inserting_after(node):
                size = self.graph.call_function(torch.ops.aten.sym_size.int, (node, at))
            self.batch[dim.source] = Proxy(size)
        return self.batch[dim.source]


def _is(value: float, power: float) -> bool:
    return abs(value - power) < 1e-6 * abs(value)


def _owner(node: Node) -> str:
    """Return the class of the innermost module that an operation belongs to."""
    stack = node.meta.get("nn_module_stack")
    return str(list(stack.values())[-1][1]) if stack else ""


def _empty(node: Node) -> bool:
    value = node.meta.get("val")
    return isinstance(value, torch.Tensor) and 0 in value.shape
