"""What can go: shares of parameters and MACs left after halving every axis, and what stays for which reason."""

from __future__ import annotations

from typing import Any

from torch import nn

from pliant import Macs
from pliant.graph import Analysis
from pliant.graph.dims import atoms

# Dimensions that no tool could cut: the rows of tables, and the sizes of what goes in and comes out.
ENDS = {"vocabulary", "input", "output"}


def shares(analysis: Analysis, model: nn.Module, cut: nn.Module, macs: Macs) -> dict[str, Any]:
    """Compare a network with its half.

    Returns:
        ``left``: share of all parameters; ``left_inside``: of those outside embeddings and fixed first and last
        dimensions; ``left_macs``: of MACs; ``inside``: the share of parameters that ``left_inside`` counts;
        ``fixed``: per reason, the number of tensor dimensions and the share of parameters that have one.
    """
    aliases = analysis.capture.aliases
    full = {aliases.get(name, name): p.numel() for name, p in model.named_parameters()}
    left = {aliases.get(name, name): p.numel() for name, p in cut.named_parameters()}
    ends = {name for name in full if _codes(analysis, name) & ENDS}
    inside = [name for name in full if name not in ends]
    before, after = sum(full.values()), sum(left.get(name, 0) for name in full)
    count = sum(full[name] for name in inside)
    fixed: dict[str, list[Any]] = {}
    for name, size in full.items():
        for code in _codes(analysis, name):
            row = fixed.setdefault(code, [0, 0.0])
            row[0], row[1] = row[0] + 1, row[1] + size / before
    return {
        "left": after / before,
        "inside": count / before,
        "left_inside": sum(left.get(name, 0) for name in inside) / count if count else None,
        "left_macs": macs.measure(cut).value / max(1.0, macs.measure(model).value),
        "fixed": fixed,
        "reasons": _reasons(analysis),
    }


def _codes(analysis: Analysis, name: str) -> set[str]:
    dims = analysis.trace.parameters.get(name, [])
    found = {(atom.reason.code, atom.size) for dim in dims for atom in atoms(dim) if atom.reason is not None}
    return {code for code, size in found if size > 1}


def _reasons(analysis: Analysis) -> list[list[Any]]:
    """Return the reasons that keep most, each with its places and an example."""
    rows: dict[tuple[str, str], list[Any]] = {}
    for fixed in analysis.fixed:
        row = rows.setdefault((fixed.reason.code, fixed.reason.text), [fixed.reason.code, fixed.reason.text, 0, ""])
        row[2] += 1
        row[3] = row[3] or f"{fixed.what} size {fixed.size}: {fixed.reason.where}"
    return sorted(rows.values(), key=lambda row: -row[2])[:12]
