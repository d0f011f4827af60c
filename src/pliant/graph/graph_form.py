"""The graph form of a smaller network: the captured graph with its size arguments recomputed from the terms.

It works wherever the capture works. Sizes of the batch are read from the inputs when the network runs.
"""

from __future__ import annotations

import operator
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import Graph, Node, Proxy
from torch.utils import _pytree as pytree

from ..checks import WrongShapeError
from .dims import Dim
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


@dataclass(frozen=True)
class _Structure:
    """How the arguments and the outputs nest; copies of a network share it."""

    inputs: Any
    outputs: Any

    def __deepcopy__(self, memo: dict[int, Any]) -> _Structure:
        return self


class GraphNet(nn.Module):
    """A network that runs a captured graph; its parameters and buffers bear their original names."""

    def __init__(self, graph: Graph, tensors: Mapping[str, Tensor], in_spec: Any, out_spec: Any) -> None:
        super().__init__()
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


def build_graph_form(slicing: Slicing, supply: Supply, rescale: bool = False) -> GraphNet:
    """Build the graph form of a slicing.

    Args:
        slicing: what stays.
        supply: gives the (already cut) tensor for each canonical name.
        rescale: recompute constants such as ``1 / sqrt(head_width)`` that the user's forward derives from a size
            which changes; without it they keep their original value. Which one holds depends on the user's code.
    """
    trace = slicing.analysis.trace
    builder = _Builder(slicing, trace, supply, rescale)
    for node in trace.capture.graph.nodes:
        builder.add(node)
    builder.graph.lint()
    program = trace.capture.program
    return GraphNet(builder.graph, builder.tensors, program.call_spec.in_spec, program.call_spec.out_spec)


class _Builder:
    def __init__(self, slicing: Slicing, trace: Tracer, supply: Supply, rescale: bool) -> None:
        self.slicing, self.trace, self.supply, self.rescale = slicing, trace, supply, rescale
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
        elif self.rescale and name in ("mul", "div", "mul_", "div_"):
            self._rescaled(node, new)

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

    def _rescaled(self, node: Node, new: Node) -> None:
        value = node.args[1] if len(node.args) > 1 else None
        if not isinstance(value, float) or value in (0.0, 1.0):
            return
        for operand in self._neighbourhood(node):
            for dim in (self.trace.dims.get(operand) or [])[-1:]:
                old, size = dim.root().size, self.slicing.size(dim)
                for power in (0.5, -0.5, 0.25, -0.25, 1.0, -1.0):
                    if size != old and abs(value - old**power) < 1e-6 * abs(value):
                        new.args = (new.args[0], float(size**power))
                        return

    def _neighbourhood(self, node: Node) -> list[Node]:
        """The scaled tensor, and the operands of the product that made it: a scale stands before or after it."""
        first = node.args[0]
        assert isinstance(first, Node)
        return [first, *first.all_input_nodes]

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


def _empty(node: Node) -> bool:
    value = node.meta.get("val")
    return isinstance(value, torch.Tensor) and 0 in value.shape
