"""Write docs/zoo.md from the records of `python -m benchmarks zoo` under bench-out/zoo/."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
RECORDS = ROOT / "bench-out" / "zoo"
FILE = ROOT / "docs" / "zoo.md"

_HEAD = """# The zoo

What bends in {count} networks: the classification, segmentation, video and detection networks of torchvision, at least
one of every model module of timm, {transformers} architectures of transformers from tiny configs, and some written for
the purpose. Weights are random, with norms, biases and running statistics randomised. This page is written by
`python tools/zoo.py` from the records of `python -m benchmarks zoo`.

For each network the harness cuts every axis to half (random units) and to a random size, and drops a random half of
the blocks. It checks that

- permuting the units of every axis leaves the outputs unchanged (1e-4 of their scale),
- a cut equals the original with the same units' weights set to zero: the user's own class for the axes over which
  nothing is normalised, and for all axes at once the captured graph in its full size, where means, norms, softmaxes and
  statistics (of weights too) run over the units that stay,
- the user's own class with smaller tensors ("module") and the rewritten graph ("graph") compute the same (1e-5); where
  they do not, the graph is what is used,
- one training step through the smallest member works, and what is extracted equals the member exactly (where torch
  takes another kernel for views of weights: equals the member with its weights copied).

`--onnx SECONDS` exports each half to ONNX, runs it in ONNX Runtime and compares it with the half.

"left" is the share of parameters that stays when every axis is cut to half; "inside" counts only tensors without a
fixed end: the rows of embeddings, the sizes of inputs and outputs. A quarter is what halving both sides of a weight
gives; grouped convolutions and packed heads give less, weights of which one side is fixed a half.
"""

_GROUPS = {
    "torchvision": "torchvision",
    "timm": "timm",
    "transformers": "transformers",
    "own": "Written for the zoo",
}
_ENDS = {"vocabulary", "input", "output", "kernel"}
_NOT_COUNTED = ("not made", "unfinished")


def render() -> str:
    """Return the page."""
    found = [_record(path) for path in sorted(RECORDS.glob("*.json"))]
    rows = [row for row in found if row["outcome"] not in _NOT_COUNTED]
    parts = [_HEAD.format(count=len(rows), transformers=sum(row["group"] == "transformers" for row in rows))]
    parts.append(_summary(rows))
    for group, title in _GROUPS.items():
        part = [row for row in rows if row["group"] == group]
        if part:
            parts.append(f"\n## {title}\n\n{_table(part)}")
    parts.append(_failures(rows))
    return "".join(parts)


def _record(path: Path) -> dict[str, Any]:
    """Return a network's record with what became of its export."""
    record: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    export = path.parent / "onnx" / path.name
    if export.exists():
        found = json.loads(export.read_text(encoding="utf-8"))
        record["onnx"] = found.get("onnx") or f"too long: {found.get('error', '')}"
    return record


def _summary(rows: list[dict[str, Any]]) -> str:
    lines = ["\n| | torchvision | timm | transformers | own | all |", "| --- | --- | --- | --- | --- | --- |"]
    facts = {
        "networks": lambda row: True,
        "captured": lambda row: row["outcome"] != "no capture",
        "a verified smaller network": lambda row: row["outcome"] == "ok",
        "in the user's own class": lambda row: row["outcome"] == "ok" and row.get("form") == "module",
        "half leaves less than 45 % inside": lambda row: row["outcome"] == "ok" and (row["left_inside"] or 0) < 0.45,
        "wrong": lambda row: row["outcome"] == "wrong",
        "export of the half to ONNX tried": lambda row: "onnx" in row,
        "exported": lambda row: row.get("onnx") == "ok",
        "not exported, nor is the original": lambda row: row.get("onnx", "").startswith("the original"),
        "not done in time": lambda row: row.get("onnx", "").startswith("too long"),
        "not exported, but the original is": lambda row: row.get("onnx", "").startswith("fails"),
    }
    for name, holds in facts.items():
        counts = [sum(holds(row) for row in rows if row["group"] == group) for group in _GROUPS]
        lines.append(f"| {name} | {' | '.join(map(str, [*counts, sum(counts)]))} |")
    return "\n".join(lines) + "\n"


def _table(rows: list[dict[str, Any]]) -> str:
    head = "| network | parameters | bends | blocks | left | inside | MACs left | form | kept besides the ends |"
    lines = [head, "|" + " --- |" * 9]
    for row in rows:
        name = row["name"].partition("/")[2]
        if row["outcome"] == "ok":
            left = [_share(row, key) for key in ("left", "left_inside", "left_macs")]
            cells = [name, _count(row["parameters"]), _kinds(row["kinds"]), str(row["blocks"]), *left]
            lines.append(f"| {' | '.join([*cells, row.get('form', ''), _kept(row)])} |")
        else:
            lines.append(f"| {name} | {_count(row.get('parameters', 0))} | *{row['outcome']}* | | | | | | |")
    return "\n".join(lines) + "\n"


def _count(number: int) -> str:
    return f"{number / 1e6:.1f} M" if number >= 1e6 else f"{number / 1e3:.0f} k"


def _share(row: dict[str, Any], key: str) -> str:
    value = row.get(key)
    return "" if value is None else f"{value:.0%}"


def _kinds(kinds: dict[str, int]) -> str:
    return ", ".join(f"{count} {kind.replace('_', ' ')}" for kind, count in kinds.items())


def _kept(row: dict[str, Any]) -> str:
    rows = [reason for reason in row.get("reasons", []) if reason[0] not in _ENDS]
    return "; ".join(dict.fromkeys(_cell(text) for _, text, *_ in rows[:3]))


def _plain(text: str) -> str:
    """Leave out what is of one run: names of temporary files."""
    return re.sub(r"Load model from \S+ failed:\s*", "", text)


def _cell(text: str) -> str:
    """Return ``text`` for one cell of a table: in one line, with files named from their package on."""
    text = re.sub(r"\S*/(?:site-packages|src)/", "", text)
    return text.replace("|", "\\|").replace("\n", " ")


def _failures(rows: list[dict[str, Any]]) -> str:
    bad = [row for row in rows if row["outcome"] != "ok"]
    forms = Counter(_cell(row["why_graph"])[:160] for row in rows if row.get("form") == "graph")
    attention = [row for row in rows if row["outcome"] == "ok" and row["attention"]]
    blind = [row for row in attention if not {"heads", "head_width"} <= set(row["kinds"])]
    parts = []
    if bad:
        lines = [f"- `{row['name']}`, {row['outcome']}: {_cell(str(row.get('error', '')))[:300]}" for row in bad]
        parts.append("\n## What fails\n\n" + "\n".join(lines) + "\n")
    if blind:
        lines = [f"- `{row['name']}` ({_kinds(row['kinds'])}): {_kept(row) or 'it has one head'}" for row in blind]
        parts.append("\n## Attention networks whose heads or head widths do not bend\n\n" + "\n".join(lines) + "\n")
    if forms:
        lines = [f"- {why} ({count})" for why, count in forms.most_common()]
        parts.append("\n## Why the graph form is used\n\n" + "\n".join(lines) + "\n")
    kept = [row for row in rows if row.get("onnx", "ok") != "ok"]
    if kept:
        lines = [f"- `{row['name']}`: {_cell(_plain(row['onnx']))[:240]}" for row in kept]
        parts.append("\n## Halves not exported to ONNX\n\n" + "\n".join(lines) + "\n")
    return "".join(parts)


if __name__ == "__main__":
    FILE.write_text(render(), encoding="utf-8")
    print(f"wrote {FILE.relative_to(ROOT)}")
