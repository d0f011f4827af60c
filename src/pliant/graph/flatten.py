"""Opening the regions that `torch.export` wraps in higher-order operations, so that one flat graph remains.

``with torch.no_grad()`` and ``torch.autocast`` inside a forward become calls of submodules. They are inlined here, with
the mode switched on before and back after, so that the analysis sees one graph and running it keeps its meaning.
"""

from __future__ import annotations

import operator
from collections.abc import Set
from typing import Any

import torch
from torch.export import ExportedProgram
from torch.fx import Graph, GraphModule, Node


def enter_grad_mode(enabled: bool) -> bool:
    """Switch gradient recording and return what it was: it can only stay off if the caller had it off."""
    before = torch.is_grad_enabled()
    torch.set_grad_enabled(enabled and before)
    return before


def leave_grad_mode(before: bool) -> None:
    """Put back what :func:`enter_grad_mode` found."""
    torch.set_grad_enabled(before)


def inline_regions(program: ExportedProgram) -> Graph:
    """Return a copy of the program's graph with every set-grad and autocast region inlined."""
    graph = Graph()
    env: dict[Node, Any] = {}
    module = program.graph_module
    for node in module.graph.nodes:
        _copy(graph, module, node, env)
    _drop_unused(graph, set(program.graph_signature.inputs_to_parameters))
    graph.lint()
    return graph


def _drop_unused(graph: Graph, parameters: Set[str]) -> None:
    """Take out what nothing uses: a forward that only asks a slice for its shape would tie and freeze for nothing.

    What a layer gives stays all the same: the user's class runs it too, and its weights must fit what comes in.
    """
    used: set[Node] = set()
    for node in reversed(graph.nodes):
        if not _without_effect(node) or not used.isdisjoint(node.users):
            used.add(node)
    layers: set[Node] = set()
    for node in graph.nodes:
        if node not in used and any(n in layers or n.name in parameters for n in node.all_input_nodes):
            layers.add(node)
    for node in reversed(graph.nodes):
        if not node.users and node not in layers and _without_effect(node):
            graph.erase_node(node)


def _without_effect(node: Node) -> bool:
    schema = getattr(node.target, "_schema", None)
    pure = schema is not None and not schema.is_mutable and len(schema.returns) > 0
    return node.op == "get_attr" or pure


def _attribute(module: torch.nn.Module, target: Any) -> Any:
    value: Any = module
    for part in str(target).split("."):
        value = getattr(value, part)
    return value


def _copy(graph: Graph, module: GraphModule, node: Node, env: dict[Node, Any]) -> None:
    name = getattr(node.target, "__name__", "") if node.op == "call_function" else ""
    if node.op == "get_attr" and isinstance(_attribute(module, node.target), GraphModule):
        env[node] = _region(graph, _attribute(module, node.target))
    elif name == "wrap_with_set_grad_enabled":
        _inline_set_grad(graph, module, node, env)
    elif name == "wrap_with_autocast":
        _inline_autocast(graph, module, node, env)
    elif node.op == "call_function" and node.target is operator.getitem and isinstance(env.get(node.args[0]), tuple):  # type: ignore[arg-type]
        env[node] = env[node.args[0]][node.args[1]]  # type: ignore[index]
    else:
        env[node] = graph.node_copy(node, lambda n: env[n])


def _region(graph: Graph, region: GraphModule) -> Node:
    """Name the graph of a region; those that are not inlined (branches of `torch.cond`) are run as they are."""
    node = graph.create_node("get_attr", f"_region_{len(graph.find_nodes(op='get_attr'))}")
    node.meta["region"] = region
    return node


def _inline_set_grad(graph: Graph, module: GraphModule, node: Node, env: dict[Node, Any]) -> None:
    enabled, region, *operands = node.args
    before = graph.call_function(enter_grad_mode, (enabled,))
    env[node] = _inline(graph, module, region, operands, env)
    graph.call_function(leave_grad_mode, (before,))


def _inline_autocast(graph: Graph, module: GraphModule, node: Node, env: dict[Node, Any]) -> None:
    device, dtype, enabled, cache, region, *operands = node.args
    enter = graph.call_function(torch.amp.autocast_mode._enter_autocast, (device, dtype, enabled, cache))
    env[node] = _inline(graph, module, region, operands, env)
    graph.call_function(torch.amp.autocast_mode._exit_autocast, (enter,))


def _inline(graph: Graph, module: GraphModule, region: Any, operands: Any, env: dict[Node, Any]) -> tuple[Any, ...]:
    inner = _attribute(module, region.target)
    local: dict[Node, Any] = {}
    given = iter(operands)
    for node in inner.graph.nodes:
        if node.op == "placeholder":
            operand = next(given)
            local[node] = env[operand] if isinstance(operand, Node) else operand
        elif node.op == "output":
            result = torch.fx.map_arg(node.args[0], lambda n: local[n])
            return tuple(result) if isinstance(result, (tuple, list)) else (result,)
        else:
            _copy(graph, inner, node, local)
    raise AssertionError("a region without an output")
