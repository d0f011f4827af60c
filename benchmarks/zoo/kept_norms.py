"""The second reference of a cut: the captured graph in its full size, weights zeroed, norms over the units that stay.

Zeros stand for units that are gone wherever they are multiplied and added; a mean, a norm, a softmax or a scale of one
over the root of the width counts them. Here every such operation is done on what stays, and its result is put back
between zeros. All other operations run as they were captured: no size in the graph changes, so that nothing of what
makes a smaller network is used but the places of the units that stay.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.fx import Node
from torch.utils import _pytree as pytree

from pliant.graph import Analysis
from pliant.graph.dims import Dim
from pliant.graph.prepare import leaving_no_trace, own_copies
from pliant.graph.slicing import Slicing
from pliant.graph.tensors import full_tensors
from pliant.graph.trace import Call

Places = dict[int, Tensor]  # dimension to the places that stay, where not all do
TRAILING = {"layer_norm", "rms_norm"}
SOFTMAX = {"softmax", "_softmax", "_safe_softmax"}
STATISTICS = {"batch_norm": "training", "instance_norm": "use_input_stats"}
REDUCING = {
    "mean", "sum", "var", "std", "var_mean", "std_mean", "amax", "amin", "max", "min", "median", "prod", "logsumexp",
    "linalg_vector_norm", "norm", "linalg_norm", "frobenius_norm", "nansum", "nanmean",
}  # fmt: skip


def reduced(call: Call, rank: int) -> list[int]:
    """Return the dimensions of the first argument, of ``rank`` dimensions, over which an operation counts units."""
    if call.name in TRAILING:
        return list(range(rank - len(call["normalized_shape"]), rank))
    if call.name in STATISTICS:  # with batch statistics: weights are standardised so
        return [d for d in range(rank) if d > 1 or (d == 0 and call.name == "batch_norm")] if _counts(call) else []
    if call.name == "group_norm":
        return [1]
    if call.name in SOFTMAX:
        return [call["dim"] % rank]
    if call.name in REDUCING and "other" not in call.args:
        asked = call.get("dim")
        wanted = range(rank) if asked is None or asked == [] else [asked] if isinstance(asked, int) else asked
        return [d % rank for d in wanted] if rank else []
    return []


def kept_outputs(net: nn.Module, slicing: Slicing, args: Sequence[Any], kwargs: Mapping[str, Any]) -> list[Tensor]:
    """Run the graph of ``net`` in its full size, its norms over what ``slicing`` keeps.

    ``net`` is the network whose cut weights are zero; the slicing must drop no block.
    """
    capture = slicing.analysis.capture
    args, kwargs = own_copies(args, kwargs)
    spec = capture.program.call_spec.in_spec
    order = (spec.child(1).context if spec.num_children > 1 else None) or []
    flat = iter(pytree.tree_leaves((args, {name: kwargs[name] for name in [*order, *kwargs] if name in kwargs})))
    tensors = full_tensors(net, capture)
    env: dict[Node, Any] = {}
    with torch.no_grad(), leaving_no_trace(net):
        torch.manual_seed(0)  # as `outputs` does: every network that is compared draws the same numbers
        for node in capture.graph.nodes:
            if node.op == "placeholder":
                spec = capture.inputs[str(node.target)]
                held = spec.kind.name in ("PARAMETER", "BUFFER", "CONSTANT_TENSOR")
                env[node] = tensors[capture.aliases.get(spec.target, spec.target)] if held else next(flat)
            elif node.op == "output":
                leaves = pytree.tree_leaves(torch.fx.map_arg(node.args[0], env.__getitem__))
                return [leaf for leaf in leaves if isinstance(leaf, Tensor)]
            elif node.op == "get_attr":
                env[node] = node.meta["region"]
            else:
                env[node] = _run(node, slicing, env)
            for source in _done(node):
                del env[source]
    raise AssertionError("a graph without an output")


def _done(node: Node) -> Iterator[Node]:
    """Yield what no later node uses."""
    for source in node.all_input_nodes:
        if all(user is node or user < node for user in source.users):
            yield source


def _run(node: Node, slicing: Slicing, env: Mapping[Node, Any]) -> Any:
    given: Any = torch.fx.map_arg((node.args, dict(node.kwargs)), env.__getitem__)
    args, kwargs = given
    whole: Callable[..., Any] = node.target  # type: ignore[assignment]
    if not hasattr(node.target, "_schema"):
        return whole(*args, **kwargs)
    call = Call(node)
    if call.name == "_weight_norm":  # zero over zero
        return torch.nan_to_num(whole(*args, **kwargs))
    if call.name == "scaled_dot_product_attention" and call.get("scale") is None:
        width = slicing.size(_dims(slicing.analysis, call["query"])[-1])
        return whole(*args, **{**kwargs, "scale": width**-0.5})
    places = _places(call, slicing)
    if not places:
        return whole(*args, **kwargs)
    if call.name in REDUCING:
        return whole(_take(args[0], places), *args[1:], **kwargs)
    named = {name: env.get(value, value) if isinstance(value, Node) else value for name, value in call.args.items()}
    return _spread(_on_kept(call, named, places), places, args[0].shape)


def _on_kept(call: Call, given: dict[str, Any], places: Places) -> Tensor:
    """Apply a norm or a softmax to the units that stay."""
    whole = given.pop(next(iter(given)))
    x = _take(whole, places)
    if call.name in TRAILING:
        first = x.dim() - len(given["normalized_shape"])
        own = {d - first: kept for d, kept in places.items()}
        for name in ("weight", "bias"):
            if isinstance(given.get(name), Tensor):
                given[name] = _take(given[name], own)
        given |= {"normalized_shape": list(x.shape[first:])}
    elif call.name == "group_norm":
        for name in ("weight", "bias"):
            if isinstance(given.get(name), Tensor):
                given[name] = _take(given[name], {0: places[1]})
        per_group = whole.shape[1] // given["num_groups"]
        given |= {"num_groups": len(set((places[1] // per_group).tolist()))}
    return call.node.target(x, **given)  # type: ignore[operator]


def _places(call: Call, slicing: Slicing) -> Places:
    dims = _dims(slicing.analysis, call.first)
    found: Places = {}
    for d in reduced(call, len(dims)):
        pick = slicing.pick(dims[d])
        if pick is not None:
            found[d] = torch.from_numpy(np.arange(dims[d].root().size)[pick])
    return found


def _take(x: Tensor, places: Places) -> Tensor:
    for dim, kept in places.items():
        x = x.index_select(dim, kept)
    return x


def _spread(x: Tensor, places: Places, shape: Sequence[int]) -> Tensor:
    """Put back what :func:`_take` took, between zeros."""
    for dim, kept in places.items():
        full = x.new_zeros([shape[dim] if i == dim else size for i, size in enumerate(x.shape)])
        x = full.index_copy(dim, kept, x)
    return x


def _counts(call: Call) -> bool:
    """Tell whether a norm takes its statistics from what it normalises."""
    return bool(call[STATISTICS[call.name]]) or call.get("running_mean") is None


def _dims(analysis: Analysis, node: Any) -> list[Dim]:
    return analysis.trace.dims.get(node) or [] if isinstance(node, Node) else []
