"""Curves of regret over measurements, as a picture for the documentation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .case import Case

_COLOURS = (
    "#0b6e4f",
    "#777777",
    "#c1440e",
    "#e39b28",
    "#3b6fb6",
    "#8a4fa3",
    "#2a9db0",
    "#a04050",
    "#506030",
    "#b07aa1",
)


def draw(case: Case, records: Mapping[str, Sequence[dict[str, Any]]], out: Path) -> None:
    """Draw the median regret of each method over its seeds, with the band between the quartiles, into ``out`` (SVG)."""
    import matplotlib as mpl

    mpl.use("svg")
    mpl.rcParams.update({"svg.hashsalt": "pliant", "svg.fonttype": "none", "font.family": "sans-serif", "font.size": 9})
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(7.0, 4.2))
    floor = 1e-5
    for colour, (name, found) in zip(_COLOURS, ((n, r) for n, r in records.items() if r), strict=False):
        budget = min(record["budget"] for record in found)
        curves = []
        for record in found:
            curve = case.regrets(np.array(record["values"]))
            curves.append(np.concatenate([curve, np.full(max(0, budget - len(curve)), curve[-1])])[:budget])
        low, middle, high = np.maximum(np.percentile(curves, [25, 50, 75], axis=0), floor)
        steps = np.arange(1, budget + 1)
        axes.plot(steps, middle, color=colour, linewidth=2.2 if name == next(iter(records)) else 1.2, label=name)
        axes.fill_between(steps, low, high, color=colour, alpha=0.12, linewidth=0)
    axes.axhline(0.01 * case.best, color="#999999", linewidth=0.8, linestyle="--")
    axes.annotate(
        "99 % of the true hypervolume", (1.0, 0.0105 * case.best), xycoords=("axes fraction", "data"),
        ha="right", color="#666666", fontsize=8,
    )  # fmt: skip
    axes.set_yscale("log")
    axes.set_xlabel("members measured")
    axes.set_ylabel("regret: hypervolume that is still missing")
    axes.set_title(case.name, fontsize=10)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=8, ncols=2)
    figure.tight_layout()
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out, format="svg", metadata={"Date": None})
    plt.close(figure)
