"""Make a report's data into one HTML file that needs nothing else."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..files import write_text
from . import figures
from .data import Fixed, Kept, MemberRow, ReportData
from .store import verify
from .summary import chart, columns, headline, speedup

if TYPE_CHECKING:
    import jinja2

ROLES = {
    "reference": "full network",
    "recommended": "recommended",
    "dropped": "not recommended",
    "front": "on the front",
}


def write_report(data: ReportData, path: str | Path) -> Path:
    """Write the report to ``path``, atomically, and return it. Raises :class:`~pliant.checks.WrongShapeError`."""
    return write_text(Path(path), render(data))


def render(data: ReportData) -> str:
    """Return the report as one HTML page: style, script and numbers inlined, nothing fetched from anywhere."""
    verify(data)
    return (
        environment()
        .get_template("template.html.j2")
        .render(
            data=data,
            headline=headline(data),
            columns=columns(data),
            members=[_member(member, data) for member in data.members],
            dropped=data.of("dropped"),
            fixed=by_reason(data.findings.fixed),
            seconds=sum(phase.seconds for phase in data.facts.phases),
            chart=script_json(chart(data)),
            roles=ROLES,
        )
    )


def environment() -> jinja2.Environment:
    """Return what renders the templates of this folder; ``f`` is how they write figures."""
    import jinja2

    made = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.globals["f"] = figures
    return made


def script_json(value: Any) -> str:
    """Return JSON that may stand inside a script element: no text in it can close that element."""
    text = json.dumps(value, allow_nan=False, separators=(",", ":"))
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


def by_reason(fixed: Sequence[Fixed]) -> list[tuple[str, list[Fixed]]]:
    """Group what is fixed by the reason without its place, the most frequent first."""
    groups: dict[str, list[Fixed]] = {}
    for item in fixed:
        groups.setdefault(figures.reason(item.why)[0], []).append(item)
    return sorted(groups.items(), key=lambda group: -len(group[1]))


def _member(member: MemberRow, data: ReportData) -> dict[str, Any]:
    times = speedup(member, data.reference) if member.role != "reference" else None
    return {
        "row": member,
        "speedup": f"{figures.digits(times, 2)}×" if times else "",
        "picture": picture(member.kept),
        "passed": sum(check.passed for check in member.checks),
    }


def picture(kept: Sequence[Kept]) -> dict[str, Any]:
    """Arrange what a member kept as a table: a row per group, a column per kind, in the order of first appearance.

    A row is ``{"group", "out", "cells"}``: ``out`` says that the whole block was left out; a cell is a list of
    ``{"text", "share", "title"}`` with ``share`` in percent.
    """
    kinds = list(dict.fromkeys(item.kind for item in kept if item.kind != "block"))
    groups: dict[str, dict[str, list[dict[str, Any]]]] = {}
    out = {item.group for item in kept if item.kind == "block" and item.kept == 0}
    for item in kept:
        row = groups.setdefault(item.group, {})
        if item.kind != "block":
            share = 100.0 * item.kept / item.full if item.full else 0.0
            title = f"{item.name or item.group}: {item.kept} of {item.full} {item.kind}"
            cell = {"text": f"{item.kept}/{item.full}", "share": round(share, 2), "title": title}
            row.setdefault(item.kind, []).append(cell)
    rows = [
        {"group": group or "network", "out": group in out, "cells": [cells.get(kind, []) for kind in kinds]}
        for group, cells in groups.items()
    ]
    return {"kinds": kinds, "rows": rows}
