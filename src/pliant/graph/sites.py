"""The sites of a network: the operations that hold weights, where a technique may put another implementation."""

from __future__ import annotations

from .nouns import Site
from .trace import Call, Tracer, module_path

_WEIGHT = {"linear": "weight", "embedding": "weight", "addmm": "mat2"} | {
    f"conv{kind}{n}d": "weight" for kind in ("", "_transpose") for n in (1, 2, 3)
}
_KIND = {"addmm": "linear"}


def find_sites(trace: Tracer) -> tuple[Site, ...]:
    """Return every linear, convolution, embedding and attention operation, in the order of execution."""
    by_placeholder = {
        node: trace.capture.aliases.get(spec.target, spec.target)
        for node in trace.capture.graph.nodes
        if node.op == "placeholder" and (spec := trace.capture.inputs[str(node.target)]).target
    }
    sites = []
    for node in trace.capture.graph.nodes:
        if node.op != "call_function" or not hasattr(node.target, "_schema"):
            continue
        call = Call(node)
        path = module_path(node)
        if call.name == "scaled_dot_product_attention":
            shape = tuple(dim.size for dim in trace.dims.get(node) or ())
            sites.append(Site(path, "attention", "", shape, node))
        weight = by_placeholder.get(call.get(_WEIGHT.get(call.name, ""), None))
        if weight is not None:
            shape = tuple(int(s) for s in trace.nodes[weight].meta["val"].shape)
            sites.append(Site(path, _KIND.get(call.name, call.name), weight, shape, node))
    return tuple(sites)
