"""Show the table of systems on the terminal."""

from __future__ import annotations


def show_systems(kind: str | None) -> None:
    """Print every technique with its kind, paper and summary, or those of one kind."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from .. import catalog
    from ..checks import unknown

    if kind is not None and kind not in catalog.kinds():
        raise unknown("kind of technique", kind, catalog.kinds())
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    for head in ("kind", "name", "what it does", "paper"):
        table.add_column(head, overflow="fold")
    for entry in catalog.entries():
        if kind in (None, entry.kind):
            table.add_row(*(Text(cell) for cell in (entry.kind, entry.name, entry.summary, entry.paper)))
    Console().print(table)
