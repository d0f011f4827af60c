"""What `pliant analyze` shows of an analysis."""

from __future__ import annotations

import io

from rich.console import Console

from pliant.cli.analysis import show


def test_axes_blocks_and_reasons_are_shown() -> None:
    said = {
        "axes": [
            {"name": "blocks.0.mlp", "kind": "hidden", "size": 256, "parameters": [f"p{i}[dim 0]" for i in range(6)]},
            {"name": "stream", "kind": "stream", "size": 64, "parameters": ["head.weight"]},
        ],
        "blocks": [{"name": "blocks.0"}, {"name": "blocks.1"}],
        "fixed": [
            {"what": "head.weight dim 0", "size": 10, "why": "an output of the network"},
            {"what": "a[/red]", "size": None, "why": "unknown operation"},
            {"what": "b", "size": 3, "why": "unknown operation"},
        ],
        "summary": {"axes": 2, "export_seconds": 0.91, "trace_seconds": 0.012},
    }
    out = io.StringIO()
    show(said, Console(file=out, width=120))
    text = out.getvalue()
    for expected in (
        "2 axes bend",
        "p0[dim 0], p1[dim 0], p2[dim 0], p3[dim 0] and 2 more",
        "2 blocks can be left out",
        "blocks.0  blocks.1",
        "3 kept as they are",
        "unknown operation (2)",
        "a[/red], b (3)",
        "head.weight dim 0 (10)",
        "export 0.91 s, trace 0.012 s",
    ):
        assert expected in text, expected
    assert text.index("unknown operation (2)") < text.index("an output of the network (1)")


def test_a_network_that_does_not_bend() -> None:
    out = io.StringIO()
    show({"axes": [], "blocks": [], "fixed": [], "summary": {}}, Console(file=out, width=80))
    assert "0 axes bend" in out.getvalue()
