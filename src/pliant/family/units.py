"""Weights seen from an axis: one row per unit."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from ..graph.analysis import Analysis
from ..graph.dims import Dim
from ..graph.nouns import Axis


def unit_of_place(dim: Dim, axis: Axis) -> Tensor | None:
    """Return for each place of a dimension its unit of ``axis``, -1 where it has none; None if no place has one."""
    dim = dim.root()
    if dim.kind == "atom":
        return torch.arange(dim.size) if dim is axis.atom.root() else None
    parts = [unit_of_place(part, axis) for part in dim.parts]
    if all(part is None for part in parts):
        return None
    sizes = [part.root().size for part in dim.parts]
    if dim.kind == "concat":
        return torch.cat(
            [part if part is not None else torch.full((size,), -1) for part, size in zip(parts, sizes, strict=True)]
        )
    out = torch.full((1,), -1)
    for part, size in zip(parts, sizes, strict=True):
        inner = part if part is not None else torch.full((size,), -1)
        out = torch.maximum(out[:, None].expand(-1, size), inner[None].expand(len(out), -1)).reshape(-1)
    return out


def unit_views(analysis: Analysis, axis: Axis, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return every parameter that ``axis`` cuts as a ``(units, rest)`` tensor, keyed ``name[dim]``."""
    views: dict[str, Tensor] = {}
    for touch in axis.touches:
        tensor = tensors[touch.tensor]
        if not isinstance(tensor, nn.Parameter):
            continue
        units = unit_of_place(analysis.trace.parameters[touch.tensor][touch.dim], axis)
        if units is None:
            continue
        order = torch.argsort(units, stable=True)
        order = order[int((units < 0).sum()) :]
        rows = tensor.detach().movedim(touch.dim, 0).index_select(0, order.to(tensor.device))
        views[f"{touch.tensor}[{touch.dim}]"] = rows.reshape(axis.size, -1)
    return views
