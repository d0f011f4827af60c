"""The commands that work on a run: the only place of the command line that calls the run pipeline."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..checks import PliantError

if TYPE_CHECKING:
    from ..report import ReportData


def pipeline() -> Any:
    """Return the room of runs."""
    from .. import runs

    return runs


def run_task(task: str, out: Path, **options: Any) -> None:
    """Run a task with live progress, then show its members and where the report is; ``options`` are the run's own."""
    from rich.console import Console

    from .progress import LiveEvents

    console = Console()
    with LiveEvents(console) as events:
        result = pipeline().run(task, out, events=events, **options)
    show_members(console, result.data)
    console.print(f"\nreport: {result.report}", markup=False, highlight=False, soft_wrap=True)


def export_member(run: Path, member: str, format_name: str | None, out: Path) -> None:
    """Export a member of a run and show what came of it, with the lines that load it.

    The format is that of the suffix of ``out``, which is to agree with ``format_name`` where that is given.
    """
    if format_name is not None and out.suffix != f".{format_name}":
        raise PliantError(
            f"{out} should end in .{format_name}, as the format does: write {out.with_suffix('.' + format_name)}"
        )
    from rich.console import Console

    from ..report.figures import circumstances, measured, quantity

    artefact = pipeline().export(run, member, out)
    console = Console()
    said = [quantity(artefact.bytes, "bytes")]
    if artefact.max_error is not None:
        said.append(f"differs from the member by at most {artefact.max_error:.1e}")
    if artefact.latency is not None:
        said.append(f"{measured(artefact.latency)} ({', '.join(circumstances(artefact.latency))})")
    console.print(f"wrote {artefact.path}: {', '.join(said)}\n", markup=False, highlight=False, soft_wrap=True)
    console.print(artefact.load_lines, markup=False, highlight=False, soft_wrap=True)


def show_members(console: Any, data: ReportData) -> None:
    """Print the headline, the table of members and the lines that say why some are not recommended."""
    from rich.table import Table
    from rich.text import Text

    from ..report.figures import digits, label, measured
    from ..report.render import ROLES
    from ..report.summary import columns, headline, speedup

    names = _essential(columns(data), data.error)
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    table.add_column("member", no_wrap=True)
    for name in [*map(label, names), "Speed"]:
        table.add_column(name, justify="right", no_wrap=" " not in name)  # in 80 characters a long head takes two lines
    table.add_column("", no_wrap=True)
    for member in data.members:
        cells = [measured(member.measurements[name]) if name in member.measurements else "" for name in names]
        times = 1.0 if member.role == "reference" else speedup(member, data.reference)
        cells.append(f"{digits(times, 2)}×" if times else "")
        style = {"recommended": "green", "dropped": "dim"}.get(member.role, "")
        table.add_row(member.id, *cells, ROLES[member.role], style=style)
    console.print(Text(f"\n{headline(data).sentence}\n", style="bold"))
    console.print(table)
    for member in data.of("dropped"):
        console.print(Text(f"{member.id} is not recommended: {member.note}", style="dim"))


def _essential(names: Sequence[str], error: str) -> list[str]:
    """Return the columns that fit a terminal of 80 characters; the report has them all."""
    latency = [name for name in names if name.startswith("latency")][:1]
    return [error, *latency, *(name for name in names if name in ("macs", "params"))]
