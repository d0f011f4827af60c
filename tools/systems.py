"""Write docs/systems.md, the table of every technique, from the catalog."""

from __future__ import annotations

from itertools import groupby
from pathlib import Path

from pliant import catalog

FILE = Path(__file__).parents[1] / "docs" / "systems.md"
_HEAD = """# Systems

Every technique that Pliant has, by kind. This page is written by `make systems` from the techniques' own files.
"""


def render() -> str:
    """Return the page."""
    parts = [_HEAD]
    for kind, rows in groupby(catalog.entries(), key=lambda row: row.kind):
        lines = [f"\n## {kind}\n", "| technique | what it does | paper |", "| --- | --- | --- |"]
        lines += [f"| `{row.name}` | {_cell(row.summary)} | {_cell(row.paper)} |" for row in rows]
        parts.append("\n".join(lines) + "\n")
    return "".join(parts)


def _cell(text: str) -> str:
    return text.replace("``", "`").replace("|", "\\|")


if __name__ == "__main__":
    FILE.write_text(render(), encoding="utf-8")
    print(f"wrote {FILE.relative_to(FILE.parents[1])}")
