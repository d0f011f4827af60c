"""Every network of torchvision, one of every timm module, many transformers and some of our own: what bends, and how.

``python -m benchmarks zoo [--only PATTERNS] [--jobs N] [--limit SECONDS] [--onnx SECONDS] [--redo] [--report]``. Each
network runs in a process of its own with a time limit; its record is kept under bench-out/zoo/, and finished ones are
not run again. With ``--onnx`` halves are exported to ONNX too, also those of networks that were measured before.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from .._figures import Figure
from .entries import Net

BY_DEFAULT = False  # it takes long


def label(arguments: Sequence[str]) -> str:
    """Return the name that the figures are stored under: a part of the zoo is not the zoo."""
    options = _parse(arguments)
    return "zoo-part" if options.only else "zoo"


def run(arguments: Sequence[str]) -> list[Figure]:
    """Measure what is asked for and not measured yet; return the figures of all that is asked for."""
    from .entries import chosen
    from .results import figures
    from .runner import ONNX, finished, load

    options = _parse(arguments)
    nets = chosen(options.only)
    if not options.report:
        _measure([net for net in nets if options.redo or not finished(net.name)], options)
        if options.onnx:
            good = [net for net in nets if (load(net.name) or {}).get("outcome") == "ok"]
            _measure([net for net in good if options.redo or not finished(net.name, ONNX)], options, ONNX)
    return figures([net.name for net in nets])


def _measure(nets: Sequence[Net], options: argparse.Namespace, tool: str = "") -> None:
    from .runner import run_all

    limit = options.limit + (2 * options.onnx if tool else 0)
    run_all(nets, options.jobs, limit, lambda line: print(line, file=sys.stderr, flush=True), tool, options.onnx)


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks zoo", description=__doc__)
    parser.add_argument("--only", default="", help="comma-separated names, with wildcards, or parts of names")
    parser.add_argument("--jobs", type=int, default=2, help="processes at once")
    parser.add_argument("--limit", type=float, default=120, help="seconds per network, and more for large ones")
    parser.add_argument("--onnx", type=float, default=0, help="export the half to ONNX, for at most so many seconds")
    parser.add_argument("--redo", action="store_true", help="measure again what was measured")
    parser.add_argument("--report", action="store_true", help="measure nothing: figures of what is there")
    return parser.parse_args(arguments)
