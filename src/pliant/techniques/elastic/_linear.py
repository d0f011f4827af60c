"""Linear layers that another implementation can stand for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor
from torch.fx import Node

if TYPE_CHECKING:
    from ...graph.analysis import Analysis


@dataclass(frozen=True)
class Layer:
    """A weight that linear layers alone use: most often one, ``callers`` being its path."""

    name: str
    kind: str
    weight: str
    shape: tuple[int, ...]
    callers: tuple[str, ...]


def linear_layers(analysis: Analysis) -> list[Layer]:
    """Return the weights that are used by nothing but modules ``nn.Linear`` when these are called."""
    capture, callers = analysis.capture, dict[str, dict[str, None]]()
    for node in capture.graph.find_nodes(op="placeholder"):
        target, value = capture.inputs[str(node.target)].target, node.meta.get("val")
        if target and isinstance(value, Tensor) and value.is_floating_point():
            name = capture.aliases.get(target, target)
            callers.setdefault(name, {}).update(dict.fromkeys(map(_caller, node.users)))
    found: dict[str, Layer] = {}
    for site in analysis.sites:
        paths = tuple(callers.get(site.weight, ()))
        names = {capture.aliases.get(f"{path}.weight", f"{path}.weight") for path in paths}
        if site.kind == "linear" and names == {site.weight}:
            found.setdefault(site.weight, Layer(site.name, site.kind, site.weight, site.shape, paths))
    return list(found.values())


def _caller(node: Node) -> str:
    """Return the path of the ``nn.Linear`` whose forward made an operation; no path where something else did."""
    stack = list((node.meta.get("nn_module_stack") or {}).values())
    if not stack or "torch.nn.modules.linear.Linear" not in str(stack[-1][1]) or "linear" not in str(node.target):
        return "?"
    return str(stack[-1][0])
