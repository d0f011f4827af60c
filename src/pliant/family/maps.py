"""Weights that a member computes from the family's: a kernel cut out and transformed, a mixture of several weights.

While a member trains, the function runs at each use of the weight, so gradients reach the family's weight and the
extra parameters through it (as with :mod:`torch.nn.utils.parametrize`, which does the work). A member that leaves the
family gets the values.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from ..checks import WrongShapeError

WeightMap = Callable[[Tensor], Tensor]
Maps = Mapping[str, Sequence[WeightMap]]


class _Map(nn.Module):
    """Calls plain functions one after the other; extra parameters in them are the family's, not this module's."""

    def __init__(self, functions: Sequence[WeightMap]) -> None:
        super().__init__()
        self.functions = tuple(functions)

    def forward(self, weight: Tensor) -> Tensor:
        for function in self.functions:
            weight = function(weight)
        return weight


def install(net: nn.Module, maps: Maps, places: Mapping[str, Sequence[str]]) -> dict[str, Sequence[str]]:
    """Let a member compute its weights.

    Args:
        net: the member, with the weights that are mapped in their places.
        maps: canonical name of a weight to the functions that are applied to it, in order.
        places: canonical name to every name that the tensor has in ``net``.

    Returns:
        The places, changed where a weight has moved.
    """
    found = dict(places)
    for name, functions in maps.items():
        moved = []
        for owner, last, path in _owners(net, name, places):
            parametrize.register_parametrization(owner, last, _Map(functions), unsafe=True)
            moved.append(".".join(filter(None, (path, "parametrizations", last, "original"))))
        found[name] = moved
    return found


def settle(net: nn.Module, maps: Maps, places: Mapping[str, Sequence[str]]) -> None:
    """Replace the weights of a network that leaves the family by what the functions give."""
    for name, functions in maps.items():
        made: nn.Parameter | None = None
        for owner, last, _ in _owners(net, name, places):
            parameter = owner._parameters[last]
            if made is None and parameter is not None:
                with torch.no_grad():
                    value = _Map(functions)(parameter).contiguous().clone()
                made = nn.Parameter(value, parameter.requires_grad)
            owner._parameters[last] = made


def _owners(net: nn.Module, name: str, places: Mapping[str, Sequence[str]]) -> list[tuple[nn.Module, str, str]]:
    modules = dict(net.named_modules())
    rows = []
    for place in places.get(name, (name,)):
        path, _, last = place.rpartition(".")
        if path in modules and last in modules[path]._parameters:
            rows.append((modules[path], last, path))
        elif path in modules and last in getattr(modules[path], "parametrizations", {}):
            raise WrongShapeError(
                f"{place} is computed by the model itself (torch parametrizations): bend another part"
            )
    return rows
