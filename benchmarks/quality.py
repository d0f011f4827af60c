"""Members of a family against networks of the same shapes trained alone, and against the full network.

For every seed the family is trained by the task's recipe for the task's own steps, and each shape alone for as many
(see ``_alone.py`` for its initialisation), with several learning rates: for each shape the one with the lowest
validation error, averaged over the seeds, counts. Compared are test errors (mean and spread over the seeds), MACs, and
latency in ONNX Runtime at batch 64 with one thread, by turns with the full network.

It takes long, so ``python -m benchmarks`` leaves it out: ``python -m benchmarks quality --task digits --seeds 5``.
Finished seeds are kept under bench-out/quality/ and not trained again.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pliant import Family, Latency, load_task
from pliant.files import write_json
from pliant.runs.build import build_family, default_choices
from pliant.runs.spec import checked_recipe
from pliant.space import Config
from pliant.tasks import Task

from ._alone import train_alone, train_family
from ._figures import OUT, Figure
from ._members import macs, with_macs

BY_DEFAULT = False
SHARES = (1 / 2, 1 / 4, 1 / 8)
BATCH = 64
# Allowed beyond trained-alone; allowed beyond the full network; how many times fewer MACs and faster that member is.
LIMITS = {"digits": (0.5, 1.5, 4.0, 2.0), "charlm": (0.05, 0.15, 1.0, 2.0)}
NONE = 100.0  # stands for the error of a member that does not exist

Rows = dict[str, dict[str, float]]  # id of a member -> its measured values
Pair = tuple[float, float]  # test error, validation error
Trained = dict[str, dict[str, Pair]]  # id of a member -> "member", or a learning rate's factor when alone


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Return the arguments by name."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks quality", description=__doc__)
    parser.add_argument("--task", default="digits", help="digits, digits:convnet or charlm")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--first", type=int, default=0, help="of the seeds, to share them out over processes")
    parser.add_argument("--steps", type=int, help="the task's own if not given")
    parser.add_argument("--run", type=Path, help="a finished run, whose recommended members are compared")
    parser.add_argument("--members", help="comma-separated ids of the run's members, instead of all recommended")
    parser.add_argument(
        "--rates", type=float, nargs="+", default=[1.0, 1.5], help="times the task's learning rate, when alone"
    )
    parser.add_argument("--recipe", help="of the family, as for `pliant run`; the task's own if not given")
    parser.add_argument("--family-rate", type=float, default=1.0, help="times the task's learning rate, of the family")
    parser.add_argument("--threads", type=int, default=1, help="of training; latency is measured with one")
    return parser.parse_args(arguments)


def label(arguments: Sequence[str]) -> str:
    """Return the name under which the figures are stored."""
    return f"quality-{parse(arguments).task.replace(':', '-')}"


def run(arguments: Sequence[str]) -> list[Figure]:
    """Train, compare and hold against the limits."""
    asked = parse(arguments)
    torch.set_num_threads(asked.threads)
    task = load_task(asked.task)
    steps = asked.steps or int(task.settings["steps"])
    family = build_family(task, default_choices(), (), 0)
    members = shapes(family, asked.run)
    if asked.members:
        members = {name: members[name] for name in dict.fromkeys(["full", *asked.members.split(",")])}
    recipe = checked_recipe(asked.recipe or task.settings.get("recipe"))
    seeds = [
        one_seed(task, members, seed, steps, asked.rates, recipe, asked.family_rate)
        for seed in range(asked.first, asked.seeds)
    ]
    return figures(task, members, seeds, costs(family, task, members), steps)


def shapes(family: Family, folder: Path | None) -> dict[str, Config]:
    """Return the members to compare by id, the full network first."""
    full = {"full": family.space.largest()}
    if folder is None:
        names = [f"1/{round(1 / share)} of the MACs" for share in SHARES]
        return full | dict(zip(names, with_macs(family, SHARES), strict=True))
    from pliant.report import load

    rows = load(folder / "report.json").of("recommended")
    return full | {row.id: family.space.check(row.config) for row in rows}


def one_seed(
    task: Task,
    members: dict[str, Config],
    seed: int,
    steps: int,
    rates: Sequence[float],
    recipe: str,
    family_rate: float,
) -> Trained:
    """Train the family and every shape alone from one seed; what was done before is read again."""
    asked = {
        "task": task.digest,
        "steps": steps,
        "members": {name: c.key for name, c in members.items()},
        "recipe": recipe,
        "rate": family_rate,
    }
    path = OUT / "quality" / f"{task.name.replace(':', '-')}-{seed}.json"
    found: dict[str, Any] = {"asked": asked, "rows": {}}
    if path.exists() and (stored := json.loads(path.read_text(encoding="utf-8")))["asked"] == asked:
        found = stored
    rows: Trained = found["rows"]
    if not rows:
        family = train_family(task, seed, steps, recipe, family_rate)
        for name, config in members.items():
            rows[name] = {"member": errors(task, family.ready(config))}
        write_json(path, found)
    for name, config in members.items():
        for rate in rates:
            if f"{rate:g}" not in rows[name]:
                rows[name][f"{rate:g}"] = errors(task, train_alone(task, config, seed, steps, rate))
                write_json(path, found)
        shown = ", ".join(f"{key}: {pair[0]:.3f}" for key, pair in rows[name].items())
        print(f"seed {seed}, {name}: {shown}", flush=True)
    return rows


def errors(task: Task, net: torch.nn.Module) -> Pair:
    """Return the task's error on the test split and on the validation split."""
    test, validation = (next(iter(task.evaluate(net, split).values())) for split in ("test", "validation"))
    return test, validation


def best_rate(name: str, seeds: list[Trained]) -> str:
    """Return the factor of the learning rate with which a shape trained alone had the lowest validation error."""
    factors = [key for key in seeds[0][name] if key != "member"]
    return min(factors, key=lambda key: float(np.mean([rows[name][key][1] for rows in seeds])))


def costs(family: Family, task: Task, members: dict[str, Config]) -> Rows:
    """Return MACs and latency of each member, as shares of the full network's."""
    inputs: list[torch.Tensor] = []
    for batch, _ in task.batches(0):
        inputs.append(batch)
        if sum(map(len, inputs)) >= BATCH:
            break
    args = (torch.cat(inputs)[:BATCH],)
    whole = family.extract(members["full"])
    clock = Latency(args, runtime="onnxruntime", threads=1, repeats=40, reference=whole)
    full = macs(family, members["full"])
    found: Rows = {}
    for name, config in members.items():
        measured = clock.measure(whole if name == "full" else family.extract(config))
        found[name] = {
            "MACs": macs(family, config) / full,
            "time": float(measured.details["ratio"]),
            "ms": measured.value,
        }
    return found


def figures(task: Task, members: dict[str, Config], seeds: list[Trained], cost: Rows, steps: int) -> list[Figure]:
    """Return one figure per member against trained-alone, and that of the best small member against the full one."""
    beyond, more, smaller, faster = LIMITS[task.name.partition(":")[0]]
    unit = str(task.settings.get("unit", ""))
    made, best, which = [], NONE, "none is as small and as fast"
    full = np.array([rows["full"]["member"][0] for rows in seeds])
    for name in members:
        rate = best_rate(name, seeds)
        own, alone = (np.array([rows[name][key][0] for rows in seeds]) for key in ("member", rate))
        facts: dict[str, Any] = {
            "member": f"{own.mean():.3f} ± {own.std():.3f}",
            "alone": f"{alone.mean():.3f} ± {alone.std():.3f}",
            "alone, times the learning rate": rate,
            **{f"{key} of full" if key != "ms" else key: value for key, value in cost[name].items()},
        }
        gap, spread = float((own - alone).mean()), float((own - alone).std())
        made.append(Figure(f"{name}: beyond trained alone", gap, unit, beyond, spread, facts))
        fits = name != "full" and cost[name]["MACs"] * smaller <= 1 and cost[name]["time"] * faster <= 1
        if fits and (behind := float((own - full).mean())) < best:
            best, which = behind, name
    small = f"at least {smaller:g}x fewer MACs, {faster:g}x faster: beyond the full network"
    facts = {"which": which, "seeds": len(seeds), "steps": steps}
    return [*made, Figure(small, best, unit, more, None, facts)]
