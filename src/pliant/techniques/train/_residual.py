"""The normalisations that close residual branches: what a block adds to its input is their scaled result."""

from __future__ import annotations

from collections.abc import Iterator

from torch import nn
from torch.fx import Node

from ...graph.analysis import Analysis
from ...graph.trace import Call, is_tensor, signature

_ADDS = {"add", "add_"}
_NORMS = {"batch_norm", "layer_norm", "group_norm", "rms_norm", "instance_norm"}
_AFTER = {"dropout", "dropout_", "feature_dropout", "contiguous", "clone", "to", "_to_copy", "alias", "view", "reshape"}


def closing_gains(analysis: Analysis, model: nn.Module) -> dict[str, nn.Parameter]:
    """Return by name the gains (the scale of a normalisation) that the branches of residual blocks end with.

    A branch whose last operation with weights is no normalisation, as in most transformers, has none; nor has a
    normalisation behind the addition.
    """
    targets = {name: spec.target for name, spec in analysis.capture.inputs.items()}
    aliases, parameters = analysis.capture.aliases, dict(model.named_parameters())
    found = {}
    for block in analysis.blocks:
        for norm in _closing(block.region):
            gain = Call(norm).get("weight")
            name = targets.get(str(gain.target)) if isinstance(gain, Node) else None
            name = aliases.get(name, name) if name else None
            if name in parameters:
                found[name] = parameters[name]
    return found


def _closing(region: tuple[Node, ...]) -> Iterator[Node]:
    """Return the normalisations whose result is added to what they were computed from."""
    inside = set(region)
    for node in region:
        if _name(node) not in _ADDS:
            continue
        left, right = node.args[:2]
        for branch, stem in ((left, right), (right, left)):
            norm = _norm(branch) if is_tensor(branch) and is_tensor(stem) else None
            if norm in inside and _computed_from(norm, stem, inside):  # type: ignore[arg-type]
                yield norm


def _name(node: object) -> str:
    return signature(node.target)[0] if isinstance(node, Node) and hasattr(node.target, "_schema") else ""


def _norm(node: object) -> Node | None:
    while _name(node) in _AFTER:
        node = node.args[0]  # type: ignore[attr-defined]
    return node if isinstance(node, Node) and _name(node) in _NORMS else None


def _computed_from(node: Node, stem: Node, inside: set[Node]) -> bool:
    todo, seen = [node], {node}
    while todo:
        for source in todo.pop().all_input_nodes:
            if source is stem:
                return True
            if source in inside and source not in seen:
                seen.add(source)
                todo.append(source)
    return False
