"""A second look at what another tool cut and the masked original does not confirm: its norms may be written by hand.

Where the units that the tool took away are whole units of the axes that Pliant finds, they are a slicing, and the
reference of `kept_norms` holds for them, whose means and statistics run over what stays however they are written. It
can only acquit: a cut that is no such slicing, or that computes something else than the reference, stays wrong.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from torch import Tensor, nn

from pliant.graph import Analysis, analyze
from pliant.graph.dims import Dim, atoms
from pliant.graph.slicing import Slicing

from .kept_norms import kept_outputs

Kept = Mapping[str, Sequence[np.ndarray]]  # per parameter and dimension, the places that stayed


def kept_places(places: Mapping[str, Tensor], full: nn.Module) -> Kept:
    """Return which places of each dimension stayed, from those of the single numbers of each parameter."""
    found: dict[str, list[np.ndarray]] = {}
    for name, parameter in full.named_parameters():
        if name in places:
            where = np.unravel_index(places[name].numpy(), tuple(parameter.shape)) if parameter.dim() else ()
            found[name] = [np.unique(row) for row in where]
    return found


def outputs_over_what_stays(
    full: nn.Module, masked: nn.Module, kept: Kept, args: Sequence[Any], kwargs: Mapping[str, Any]
) -> list[Tensor] | None:
    """Return what the reference computes for the same units; None where they are no whole units of the axes.

    Args:
        full: the original network.
        masked: the same with zeros where the other tool has no weights.
        kept: what stayed.
        args: what both run on.
        kwargs: and its named part.
    """
    analysis = analyze(full, tuple(args), kwargs)
    slicing = _slicing(analysis, kept)
    return kept_outputs(masked, slicing, args, kwargs) if slicing is not None else None


def _slicing(analysis: Analysis, kept: Kept) -> Slicing | None:
    aliases = analysis.capture.aliases
    rows = {aliases.get(name, name): dims for name, dims in kept.items()}
    keep: dict[str, list[int]] = {}
    for axis in analysis.axes:
        touch = next((t for t in axis.touches if t.tensor in rows), None)
        if touch is None:
            return None
        dim = analysis.trace.parameters[touch.tensor][touch.dim]
        stays = set(_units(dim, axis.atom.root())[rows[touch.tensor][touch.dim]].tolist()) - {-1}
        if not stays:
            return None
        keep[axis.name] = sorted(stays)
    slicing = Slicing(analysis, keep)
    for name, dims in rows.items():
        for dim, places in zip(analysis.trace.parameters.get(name, ()), dims, strict=False):
            pick = slicing.pick(dim)
            if not np.array_equal(
                np.sort(np.arange(dim.root().size)[pick if pick is not None else slice(None)]), places
            ):
                return None
    return slicing


def _units(dim: Dim, atom: Dim) -> np.ndarray:
    """Return for each place of ``dim`` the unit of ``atom`` that it belongs to, -1 where it belongs to none."""
    dim = dim.root()
    if dim is atom:
        return np.arange(dim.size)
    if dim.kind == "atom" or not any(a is atom for a in atoms(dim)):
        return np.full(dim.size, -1)
    parts = [_units(part, atom) for part in dim.parts]
    if dim.kind == "concat":
        return np.concatenate(parts)
    grid = np.full([len(part) for part in parts], -1)
    for i, part in enumerate(parts):
        if (part >= 0).any():
            grid = np.maximum(grid, part.reshape([-1 if k == i else 1 for k in range(len(parts))]))
    return grid.reshape(-1)
