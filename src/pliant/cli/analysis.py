"""Show an analysis on the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..report.network import Part, Picture

_KINDS = {"head_width": "head width"}


def show_analysis(name: str, only: str | None = None, inputs: Path | None = None, html: Path | None = None) -> None:
    """Analyse a network and show its parts, its axes, its blocks, and what is fixed and why.

    Args:
        name: a task, or ``torchvision:``, ``timm:`` or ``hf:`` and what it is called there.
        only: the path of a submodule, to analyse that alone.
        inputs: a JSON file that describes the example's keyword arguments.
        html: where to write the same as a page.
    """
    from rich.console import Console

    from ..graph import analyze
    from ..report.network import picture
    from ..report.network_page import write_network_page
    from ..tasks.networks import load_network

    network = load_network(name, inputs)
    seen = picture(network.model, analyze(network.model, network.args, network.kwargs, only), name)
    console = Console()
    show(seen, console)
    if html is not None:
        console.print(f"\nwrote {write_network_page(seen, html)}", style="dim", highlight=False, soft_wrap=True)


def show(seen: Picture, console: Any) -> None:
    """Print the picture of a network, as wide as the console is."""
    from rich.padding import Padding
    from rich.text import Text

    from ..report.figures import duration, quantity

    total = seen.totals
    console.print(Text(f"{seen.title}: {quantity(total.parameters, 'parameters')} parameters", style="bold"))
    for line in headline(seen):
        console.print(Text(line))
    for note in seen.notes:
        console.print(Text(note, style="yellow"))
    console.print()
    console.print(_tree(seen))
    if seen.axes:
        console.print(Text(f"\n{_number(total.axes, 'axis', 'axes')}: what must change together", style="bold"))
        for row in seen.axes:
            console.print(_axis(row))
            tensors = f"{100 * row.share:.1f} % of the parameters: {_some(row.tensors, 6)}"
            console.print(Padding(Text(tensors, style="dim"), (0, 0, 0, 4)))
    if seen.blocks:
        console.print(Text(f"\n{_number(total.blocks, 'block')} may be left out", style="bold"))
        console.print(Padding(Text("  ".join(seen.blocks)), (0, 0, 0, 2)))
    console.print(Text(f"\n{total.fixed} kept as they are, and why", style="bold"))
    for fixed in seen.fixed:
        console.print(Padding(Text(f"{fixed.why} ({fixed.count})"), (0, 0, 0, 2)))
        console.print(Padding(Text(_some(fixed.names, 6), style="dim"), (0, 0, 0, 4)))
    times = f"capture {duration(total.capture_seconds)}, analysis {duration(total.analysis_seconds)}"
    console.print(Text(f"\n{times}", style="dim"))


def headline(seen: Picture) -> list[str]:
    """Say in a line or two how far the network bends."""
    total = seen.totals
    if not total.axes and not total.blocks:
        return ["Nothing bends; the list below says why."]
    bend = "1 axis bends" if total.axes == 1 else f"{total.axes} axes bend"
    first = f"{bend}, {_number(total.blocks, 'block')} may be left out."
    if not total.axes:
        return [first]
    return [first, f"With every axis cut to half, {100 * total.half:.0f} % of the parameters are left."]


def _tree(seen: Picture) -> Any:
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim", pad_edge=False)
    table.add_column("part", overflow="fold", no_wrap=False)
    table.add_column("module", overflow="ellipsis", no_wrap=True)
    table.add_column("bends", overflow="fold")
    table.add_column("parameters", justify="right", no_wrap=True)
    for guide, part in _guided(seen.root):
        name = Text.assemble((guide, "dim"), (part.name or "network", "bold" if part.block else ""))
        times = f" ×{part.repeats}" if part.repeats > 1 else ""
        table.add_row(name, Text(part.kind + times, style="dim"), _bends(part), part.share(seen.totals.parameters))
    return table


def _guided(part: Part, guide: str = "", inner: str = "") -> list[tuple[str, Part]]:
    rows = [(guide, part)]
    for child in part.children:
        last = child is part.children[-1]
        rows += _guided(child, inner + ("└ " if last else "├ "), inner + ("  " if last else "│ "))
    return rows


def _bends(part: Part) -> Any:
    from rich.text import Text

    text = Text(", ".join(f"{_KINDS.get(kind, kind)} {size}" for kind, size in part.bends), style="green")
    if part.block:
        text.append(("; " if part.bends else "") + "may go", style="cyan")
    return text


def _axis(row: Any) -> Any:
    from rich.text import Text

    times = f" in each of {row.count}" if row.count > 1 else ""
    kind = f" ({_KINDS.get(row.kind, row.kind)})" if not row.name.endswith(row.kind) else ""
    return Text.assemble("  ", (row.name, "bold"), f": {row.size} units{times}{kind}")


def _number(count: int, one: str, many: str = "") -> str:
    return f"{count} {one if count == 1 else many or one + 's'}"


def _some(items: Sequence[Any], most: int = 4) -> str:
    shown = ", ".join(map(str, items[:most]))
    return f"{shown} and {len(items) - most} more" if len(items) > most else shown
