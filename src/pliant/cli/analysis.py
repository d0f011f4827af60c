"""Show an analysis on the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


def show_analysis(name: str) -> None:
    """Analyse a task's network and show its axes, its blocks, and what is fixed and why."""
    from rich.console import Console

    from ..graph import analyze
    from ..tasks import load_task

    task = load_task(name)
    show(analyze(task.model(), task.example_args()).describe(), Console())


def show(said: Mapping[str, Any], console: Any) -> None:
    """Print what ``Analysis.describe()`` says: ``axes``, ``blocks``, ``fixed`` and ``summary``."""
    from rich.padding import Padding
    from rich.text import Text

    from ..report.figures import duration

    axes, blocks, fixed = said["axes"], said["blocks"], said["fixed"]
    console.print(Text(f"{len(axes)} axes bend", style="bold"))
    if axes:
        rows = [(a["name"], a["kind"], str(a["size"]), _some(a["parameters"])) for a in axes]
        console.print(_table(("axis", "kind", "size", "parameters that move together"), rows, right=2))
    console.print(Text(f"\n{len(blocks)} blocks can be left out", style="bold"))
    if blocks:
        names = Text("  ".join(str(block["name"]) for block in blocks))
        console.print(Padding(names, (0, 0, 0, 2)))
    console.print(Text(f"\n{len(fixed)} kept as they are", style="bold"))
    for why, items in _by_reason(fixed).items():
        console.print(Padding(Text(f"{why} ({len(items)})"), (0, 0, 0, 2)))
        names = Text(_some([_sized(item) for item in items], 6), style="dim")
        console.print(Padding(names, (0, 0, 0, 4)))
    seconds = {key: value for key, value in said.get("summary", {}).items() if key.endswith("_seconds")}
    if seconds:
        times = ", ".join(f"{key.removesuffix('_seconds')} {duration(value)}" for key, value in seconds.items())
        console.print(Text(f"\n{times}", style="dim"))


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]], right: int) -> Any:
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    for place, head in enumerate(heads):
        table.add_column(head, justify="right" if place == right else "left", overflow="fold")
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))  # as text: names may hold what looks like markup
    return table


def _some(items: Sequence[Any], most: int = 4) -> str:
    shown = ", ".join(map(str, items[:most]))
    return f"{shown} and {len(items) - most} more" if len(items) > most else shown


def _sized(item: Mapping[str, Any]) -> str:
    return f"{item['what']} ({item['size']})" if item.get("size") is not None else str(item["what"])


def _by_reason(fixed: Sequence[Mapping[str, Any]]) -> dict[str, list[Mapping[str, Any]]]:
    from ..report.figures import reason

    groups: dict[str, list[Mapping[str, Any]]] = {}
    for item in fixed:
        groups.setdefault(reason(str(item["why"]))[0], []).append(item)
    return dict(sorted(groups.items(), key=lambda group: -len(group[1])))
