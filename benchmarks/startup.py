"""Whole processes: `import pliant` over `import torch` (0.15 s more) and `pliant --help` (0.5 s)."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from ._figures import Figure, by_turns, median

REPEATS = 20
MORE, HELP = 0.15, 0.5
# Names of the package are imported when first used, so the nouns of the README are used as well.
NOUNS = "import torch, pliant; pliant.Family, pliant.analyze, pliant.Width, pliant.Depth, pliant.train, pliant.search"


def run(arguments: Sequence[str]) -> list[Figure]:
    """Start each process by turns, once unmeasured."""
    python = [sys.executable, "-c"]
    commands = [
        [*python, "import torch"],
        [*python, "import torch, pliant"],
        [*python, NOUNS],
        [str(Path(sys.executable).parent / "pliant"), "--help"],
        [*python, "pass"],
    ]
    for command in commands:
        seconds(command)
    torch_, both, nouns, help_, nothing = by_turns([lambda c=c: seconds(c) for c in commands], REPEATS)  # type: ignore[misc]
    facts = {"repeats": REPEATS, "import torch": median(torch_)[0]}
    rows = [
        ("import torch, pliant: more than import torch", both - torch_, MORE),
        ("the same, and using Family, analyze, Width, Depth, train and search", nouns - torch_, MORE),
    ]
    figures = [Figure(name, median(more)[0], "s", limit, median(more)[1], facts) for name, more, limit in rows]
    value, spread = median(help_)
    empty = {"repeats": REPEATS, "an empty Python process": median(nothing)[0]}
    return [*figures, Figure("pliant --help", value, "s", HELP, spread, empty)]


def seconds(command: Sequence[str]) -> float:
    """Return how long a whole process takes."""
    start = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start
