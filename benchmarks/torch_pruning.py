"""Pliant and Torch-Pruning on the same networks: how many each cuts correctly, how far, and how long it takes.

``python -m benchmarks torch_pruning [--only PATTERNS] [--jobs N] [--limit SECONDS] [--redo] [--report]``. Pliant's side
is read from the records of ``python -m benchmarks zoo``, which comes first. Each network is pruned in a process of its
own with a limit of processor time. It is no dependency: ``pip install --no-deps torch-pruning==1.6.1``.

Correct means, for Torch-Pruning, equal to the masked original within 1e-3 (see ``zoo/peer.py``); for Pliant, equal to
it within 1e-4 over every axis where zeros stand for what is cut, to the original when every axis is permuted, and both
forms of the half network equal.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from typing import Any

from ._figures import Figure

BY_DEFAULT = False
TOOL = "torch_pruning"


def label(arguments: Sequence[str]) -> str:
    """Return the name that the figures are stored under."""
    return "torch_pruning-part" if _parse(arguments).only else "torch_pruning"


def run(arguments: Sequence[str]) -> list[Figure]:
    """Prune what was not pruned yet and compare."""
    from .zoo.entries import chosen
    from .zoo.runner import finished, load, run_all

    options = _parse(arguments)
    if find_spec("torch_pruning") is None:
        raise SystemExit("the peer is missing: pip install --no-deps torch-pruning==1.6.1")
    nets = [net for net in chosen(options.only) if finished(net.name)]
    todo = [] if options.report else [net for net in nets if options.redo or not finished(net.name, TOOL)]
    run_all(todo, options.jobs, options.limit, lambda line: print(line, file=sys.stderr, flush=True), TOOL)
    rows = [(net.group, load(net.name) or {}, _best(load(net.name, TOOL) or {})) for net in nets]
    made = [row for row in rows if row[2].get("outcome", "not made") != "not made"]
    figures: list[Figure] = []
    for group in dict.fromkeys(group for group, _, _ in made):
        figures += compare(group, [(own, peer) for name, own, peer in made if name == group])
    return [*figures, *compare("all", [(own, peer) for _, own, peer in made])] if figures else []


def _best(record: dict[str, Any]) -> dict[str, Any]:
    """Where the time ran out in one setting, what an earlier one gave counts."""
    ended = record.get("outcome") in ("timeout", "crash")
    return record | record["best"] if ended and record.get("best") else record


def compare(group: str, rows: Sequence[tuple[dict[str, Any], dict[str, Any]]]) -> list[Figure]:
    """Return the counts, the shares that are left and the seconds, of both tools, of one group of networks."""
    total = len(rows)
    own = [row for row, _ in rows if row.get("outcome") == "ok"]
    peer = [row for _, row in rows if row.get("outcome") == "correct"]
    ends: dict[str, int] = {}
    for _, row in rows:
        ends[row["outcome"]] = ends.get(row["outcome"], 0) + 1
    both = [(a, b) for a, b in rows if a.get("outcome") == "ok" and b.get("outcome") == "correct"]
    wrong = sum(row.get("outcome") == "wrong" for row, _ in rows)
    seconds = (
        [a["seconds"]["capture"] for a in own],
        [b["seconds"]["prune"] for b in peer],
    )
    return [
        Figure(f"{group}: Pliant cuts correctly", len(own), f"of {total}", None, None, {"wrong": wrong}),
        Figure(f"{group}: Torch-Pruning cuts correctly", len(peer), f"of {total}", None, None, ends),
        *_medians(
            f"{group}: parameters left", "%", [100 * a["left"] for a, _ in both], [100 * b["left"] for _, b in both]
        ),
        *_medians(f"{group}: processor seconds", "s", *seconds),
    ]


def _medians(what: str, unit: str, own: Sequence[float], peer: Sequence[float]) -> list[Figure]:
    found = []
    for name, values in (("Pliant", own), ("Torch-Pruning", peer)):
        if values:
            facts = {"networks": len(values), "largest": round(max(values), 2)}
            found.append(Figure(f"{what}, {name}", statistics.median(values), unit, None, None, facts))
    return found


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks torch_pruning", description=__doc__)
    parser.add_argument("--only", default="", help="comma-separated names, with wildcards, or parts of names")
    parser.add_argument("--jobs", type=int, default=2, help="processes at once")
    parser.add_argument("--limit", type=float, default=120, help="processor seconds per network")
    parser.add_argument("--redo", action="store_true", help="prune again what was pruned")
    parser.add_argument("--report", action="store_true", help="prune nothing: compare what is there")
    return parser.parse_args(arguments)
