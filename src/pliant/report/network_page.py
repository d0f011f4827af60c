"""The picture of a network as one HTML page that needs nothing else."""

from __future__ import annotations

from pathlib import Path

from ..files import write_text
from .network import Picture
from .render import environment


def write_network_page(seen: Picture, path: str | Path) -> Path:
    """Write the page to ``path``, atomically, and return it."""
    return write_text(Path(path), render_network(seen))


def render_network(seen: Picture) -> str:
    """Return the picture of a network as one HTML page: style inlined, nothing fetched from anywhere."""
    rows = list(seen.root.walk())
    return environment().get_template("network.html.j2").render(seen=seen, rows=rows)
