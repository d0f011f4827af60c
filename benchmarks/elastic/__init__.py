"""Which recipe trains a family best: every recipe of the catalogue at equal compute, against members trained alone.

``python -m benchmarks elastic --task digits --recipes sandwich,big_nas --seeds 5``. The compute of a run is that of
``Sandwich`` for ``--steps`` steps, counted in floating-point operations; each recipe gets as many steps as it can do
with it. Each recipe's learning rate, and its share of distillation where it has one, are chosen by the validation error
of seed 0, the same number of trials for all; then all seeds run with what was best. Members trained alone get
``--steps`` steps of their own shape and the better of several learning rates. Figures are of the test split: mean and
95 % confidence interval over the seeds. Finished runs are kept under bench-out/elastic/ and not repeated; ``--report``
only reads them.

It takes long, so ``python -m benchmarks`` leaves it out.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch

from pliant import catalog, load_task

from .._figures import Figure
from . import cost
from .alone import alone
from .members import compared
from .report import figures, table
from .runs import trained, tuned

BY_DEFAULT = False
RATES = (0.5, 1.0, 2.0, 4.0)


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Return the arguments by name."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks elastic", description=__doc__)
    parser.add_argument("--task", default="digits", help="digits, digits:convnet, charlm, or a task file")
    parser.add_argument("--recipes", help="comma-separated names; all of the catalogue if not given")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--steps", type=int, help="of Sandwich; 1200 if not given")
    parser.add_argument("--members", type=int, default=30, help="random members for the rank correlation")
    parser.add_argument("--alone-seeds", type=int, default=5, help="seeds of the random members trained alone")
    parser.add_argument("--only-alone", action="store_true", help="train members alone, and no family")
    parser.add_argument("--cost", action="store_true", help="time and memory of short runs, no errors")
    parser.add_argument("--report", action="store_true", help="train nothing: figures of what is there")
    parser.add_argument("--markdown", action="store_true", help="print the table as Markdown too")
    return parser.parse_args(arguments)


def label(arguments: Sequence[str]) -> str:
    """Return the name under which the figures are stored."""
    asked = parse(arguments)
    return f"elastic-{Path(asked.task).stem.replace(':', '-')}" + ("-cost" if asked.cost else "")


def run(arguments: Sequence[str]) -> list[Figure]:
    """Train, measure and compare."""
    asked = parse(arguments)
    torch.set_num_threads(1)
    task = load_task(asked.task)
    steps = asked.steps or int(task.settings["steps"])
    names = [] if asked.only_alone else asked.recipes.split(",") if asked.recipes else catalog.names("train")
    if asked.cost:
        return cost.figures(asked.task, names)
    members = compared(task, asked.members)
    found = {}
    for name in names:
        best = tuned(task, name, members, steps, RATES, read_only=asked.report)
        if best is None:
            continue
        rows = [trained(task, best, members, steps, seed, read_only=asked.report) for seed in range(asked.seeds)]
        found[best] = [row for row in rows if row]
    single = alone(task, members, steps, asked.seeds, asked.alone_seeds, read_only=asked.report)
    if asked.markdown:
        print(table(found, single, members))
    return figures(found, single, members)
