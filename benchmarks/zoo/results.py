"""The figures of the zoo, from the records of its networks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from .._figures import Figure
from .runner import ONNX, load

MADE = ("not made", "unfinished")
INSIDE = 0.45
LEAST = 0.1  # networks whose streams are outputs have less than this outside their ends: the share says nothing there


def records(names: Sequence[str]) -> list[dict[str, Any]]:
    """Return what was measured of ``names``, with what became of their export to ONNX."""
    found = []
    for name in names:
        record, export = load(name), load(name, ONNX)
        if record is not None and export is not None:
            record["onnx"] = export.get("onnx") or f"too long: {export.get('error', '')}"
        if record is not None:
            found.append(record)
    return found


def captured(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the networks that could be made and captured."""
    ran = [row for row in rows if row.get("stage") not in ("make", "run")]
    return [row for row in ran if row["outcome"] not in (*MADE, "no capture")]


def figures(names: Sequence[str]) -> list[Figure]:
    """Return how much of the zoo works."""
    rows = records(names)
    known = captured(rows)
    good = [row for row in known if row["outcome"] == "ok"]
    inside = [row for row in good if row.get("left_inside") is not None and row.get("inside", 1) >= LEAST]
    blind = [row for row in good if row["attention"] and not {"heads", "head_width"} <= set(row["kinds"])]
    onnx = [row["onnx"] for row in good if "onnx" in row]
    times = [row["seconds"]["of analysis"] / row["seconds"]["of capture"] for row in good]
    return [
        Figure("networks", len(rows), "", facts=_counts(rows)),
        Figure("captured", len(known), ""),
        Figure("wrong networks", sum(row["outcome"] == "wrong" for row in known), "", 0),
        Figure("captured without a verified smaller network", _lack(good, known), "%", 1.0),
        Figure("not in module form", _lack([r for r in good if r.get("form") == "module"], known), "%", 10.0),
        Figure(
            f"half leaves {INSIDE:.0%} inside or more", _lack([r for r in inside if r["left_inside"] < INSIDE], inside),
            "%", 5.0, facts={"networks": len(inside)},
        ),
        Figure("attention networks whose heads or widths do not bend", len(blind), "", 0),
        Figure("halves that ONNX refuses, the original not", sum(why.startswith("fails") for why in onnx), "", 0),
        Figure("analysis / capture, median", float(np.median(times)) * 100 if times else 0.0, "%", 3.0),
        Figure("analysis, slowest", max((row["seconds"]["of analysis"] for row in good), default=0.0), "s", 2.0),
        Figure("time of all", sum(row["seconds"].get("all", 0) for row in rows) / 60, "min of one process"),
    ]  # fmt: skip


def _counts(rows: Sequence[dict[str, Any]]) -> dict[str, int]:
    outcomes = [row["outcome"] for row in rows]
    return {name: outcomes.count(name) for name in sorted(set(outcomes))}


def _lack(good: Sequence[Any], of: Sequence[Any]) -> float:
    return 100 * (1 - len(good) / len(of)) if of else 0.0
