"""Show a search of a trained run: its progress, then its front."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .running import pipeline

if TYPE_CHECKING:
    from ..study import Study


def search_run(run: Path, **options: Any) -> None:
    """Search with live progress, then show the front; ``options`` are those of :func:`pliant.runs.search`."""
    from rich.console import Console

    from .progress import LiveEvents

    console = Console()
    with LiveEvents(console) as events:
        study = pipeline().search(run, events=events, **options)
    show_front(console, study)
    if options.get("storage") is None and study.front:
        line = f"pliant export {shlex.quote(str(run))} --member t{study.front[0].number} --out net.onnx"
        console.print(f"\nto make a file of one: {line}", markup=False, highlight=False, soft_wrap=True)


def show_front(console: Any, study: Study) -> None:
    """Print what was measured in a line, and the members of the front in a table."""
    from rich.table import Table
    from rich.text import Text

    from ..report.figures import digits, label, measured

    front = study.front
    failed = sum(trial.state == "failed" for trial in study.trials)
    imported = sum(bool(trial.imported) for trial in study.trials)
    parts = [f"{len(study.trials) - imported} members measured"]
    parts += [f"{failed} of them failed"] if failed else []
    parts += [f"{imported} imported"] if imported else []
    parts.append(f"{len(front)} on the front")
    if len(study.directions) > 1:
        parts.append(f"hypervolume {digits(study.hypervolume())}")
    console.print(Text(f"\n{', '.join(parts)}\n", style="bold"))
    if study.note:
        console.print(Text(study.note, style="yellow"))
    if not front:
        return
    again = any(trial.times > 1 for trial in front)
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    table.add_column("member", no_wrap=True)
    for name in [*map(label, study.directions), *(["Measured"] if again else [])]:
        table.add_column(name, justify="right", no_wrap=True)
    for trial in front:
        cells = [measured(trial.measurements[name]) for name in study.directions]
        table.add_row(f"t{trial.number}", *cells, *([f"{trial.times}×"] if again else []))
    console.print(table)
