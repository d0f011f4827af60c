"""The figures of a case as a table for the documentation."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from .case import Case

Curves = Callable[[Sequence[dict[str, Any]]], np.ndarray]


def markdown(
    case: Case,
    records: Mapping[str, Sequence[dict[str, Any]]],
    curves: Curves,
    reached: Callable[[np.ndarray, float], np.ndarray],
    points: Sequence[int],
) -> str:
    """Return one line per method; the last column compares with the first method.

    Args:
        case: what was searched.
        records: of each method, the default first.
        curves: regrets (seeds, budget) of records.
        reached: after how many measurements each of the curves is at a regret.
        points: the counts of measurements at which regrets are shown.
    """
    found = {name: curves(each) for name, each in records.items() if each}
    points = [point for point in points if all(point <= curve.shape[1] for curve in found.values())]
    heads = ["", *[f"regret at {point}" for point in points], "to 99 %", "to 99.9 %", "front found", "ms", "seeds"]
    lines = [f"| {' | '.join([*heads, 'default needs'])} |", "| --- " * (len(heads) + 1) + "|"]
    own = next(iter(found.values()))
    for name, curve in found.items():
        cells = [name, *[f"{np.median(curve[:, point - 1]):.4f}" for point in points]]
        for share in (0.99, 0.999):
            count = float(np.median(reached(curve, case.best * (1 - share))))
            cells.append(f"{count:g}" if np.isfinite(count) else "-")
        shares = [case.share(np.array(record["values"])) for record in records[name]]
        cells += [
            f"{100 * np.median(shares):.0f} %",
            f"{np.median([r['ms'] for r in records[name]]):.1f}",
            str(len(curve)),
        ]
        needed = float(np.median(reached(own, float(np.median(curve[:, -1])))))
        cells.append("" if curve is own else f"{curve.shape[1] / needed:.1f} times fewer ({needed:g})")
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)
