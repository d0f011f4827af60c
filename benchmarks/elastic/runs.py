"""One recipe with one setting and seed: steps for equal compute, training, and the errors of members."""

from __future__ import annotations

import dataclasses
import json
import re
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from pliant import Family, catalog
from pliant.checks import PliantError, TrainingDivergedError
from pliant.files import write_json
from pliant.runs.build import build_family, default_choices
from pliant.tasks import Task
from pliant.technique import Recipe
from pliant.training import default_optimizer, train

from .._figures import OUT
from .members import Members

UNIT = "sandwich"
"""The recipe whose steps say what a run may cost: two to three times as much as training the largest member alone for
as many steps. Members trained alone get so many steps of their own."""

_PROBED = 24  # steps of the short run whose operations are counted; a recipe's phases are shares of its steps
_LOST = 100.0  # stands for the error of members whose training diverged
Row = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Trial:
    """A recipe with a factor of the task's learning rate."""

    name: str
    recipe: Recipe
    rate: float

    @property
    def key(self) -> str:
        """A name for files."""
        return re.sub(r"[^\w.=,-]+", "", f"{self.recipe!r}-{self.rate:g}").replace("=", "")

    def __str__(self) -> str:
        changed = [
            f"{field.name}={value!r}"
            for field in dataclasses.fields(self.recipe)  # type: ignore[arg-type]
            if (value := getattr(self.recipe, field.name)) != field.default
        ]
        return f"{self.name}({', '.join(changed)}) at {self.rate:g} times the rate"


def tuned(task: Task, name: str, members: Members, steps: int, rates: Sequence[float], read_only: bool) -> Trial | None:
    """Return a recipe's best setting by the validation errors of seed 0; None where nothing was trained,
    or where it cannot train this family.

    Tried are its published fields at each rate, then at the best rate the other share of distillation: all of the loss,
    or half of it.
    """
    made: Any = catalog.load(name)()
    assert isinstance(made, Recipe)
    if "trained members" not in made.gives:  # it rates members, say, without training what they classify by
        print(f"{name} is left out: it gives {', '.join(sorted(made.gives))}, not trained members", flush=True)
        return None
    trials = [Trial(name, made, rate) for rate in rates]
    try:
        best = _best(task, trials, members, steps, read_only)
    except PliantError as error:  # it needs choices that this family does not have
        print(f"{name} is left out: {error}", flush=True)
        return None
    if best is not None and hasattr(made, "share"):
        other: Any = dataclasses.replace(made, share=0.5 if made.share != 0.5 else 1.0)  # type: ignore[type-var]
        best = _best(task, [best, Trial(name, other, best.rate)], members, steps, read_only)
    return best


def _best(task: Task, trials: Sequence[Trial], members: Members, steps: int, read_only: bool) -> Trial | None:
    done = {trial: row for trial in trials if (row := trained(task, trial, members, steps, 0, read_only))}
    if not done:
        return None
    return min(done, key=lambda trial: float(np.mean([pair[1] for pair in done[trial]["errors"].values()])))


def trained(task: Task, trial: Trial, members: Members, steps: int, seed: int, read_only: bool) -> Row | None:
    """Train a family by a recipe and return the errors of members (test, validation); read what was done before."""
    path = folder_of(task) / f"{trial.key}-{steps}-{seed}.json"
    asked = {"task": task.digest, "members": {name: config.key for name, config in members.configs.items()}}
    if path.exists() and (stored := json.loads(path.read_text(encoding="utf-8")))["asked"] == asked:
        return dict(stored["row"])
    if read_only:
        return None
    own = steps_for(task, trial.recipe, steps)
    family = build_family(task, default_choices(), (), seed)
    start = time.perf_counter()
    try:
        teach(family, task, trial.recipe, own, seed, trial.rate)
    except TrainingDivergedError:
        errors, seconds = dict.fromkeys(members.configs, (_LOST, _LOST)), time.perf_counter() - start
    else:
        seconds = time.perf_counter() - start
        errors = {name: error_of(task, family.ready(config)) for name, config in members.configs.items()}
    row: Row = {"steps": own, "seconds": seconds, "errors": errors}
    write_json(path, {"asked": asked, "trial": str(trial), "row": row})
    shown = ", ".join(f"{name} {errors[name][0]:.2f}" for name in members.sized)
    print(f"{trial}, seed {seed}, {own} steps, {seconds:.0f} s: {shown}", flush=True)
    return row


def folder_of(task: Task) -> Path:
    """Return where the finished runs of a task are kept."""
    return OUT / "elastic" / Path(task.name).stem.replace(":", "-")


def error_of(task: Task, net: torch.nn.Module) -> tuple[float, float]:
    """Return the task's error on the test split and on the validation split."""
    test, validation = (float(next(iter(task.evaluate(net, split).values()))) for split in ("test", "validation"))
    return test, validation


def teach(family: Family, task: Task, recipe: Recipe, steps: int, seed: int, rate: float) -> None:
    """Train as ``pliant run`` does, by ``recipe``."""
    settings = task.settings
    optimizer = default_optimizer(
        family.parameters(), rate * float(settings.get("lr", 1e-3)), float(settings.get("weight_decay", 0.05))
    )
    train(
        family,
        lambda start: task.batches(seed, start),
        task.loss,
        steps=steps,
        recipe=recipe,
        optimizer=optimizer,
        warmup=min(1.0, float(settings.get("warmup", 0)) / max(1, int(settings["steps"]))),
        seed=seed,
    )


def steps_for(task: Task, recipe: Recipe, steps: int) -> int:
    """Return how many steps of ``recipe`` cost as much as ``steps`` of :data:`UNIT`."""
    unit: Any = catalog.load(UNIT)()
    if recipe == unit:
        return steps
    return max(1, round(steps * _operations(task, unit) / _operations(task, recipe)))


_COUNTED: dict[tuple[str, Recipe], float] = {}


def _operations(task: Task, recipe: Recipe) -> float:
    """Return the floating-point operations of a step, averaged over a whole run of few steps."""
    if (task.digest, recipe) not in _COUNTED:
        family = build_family(task, default_choices(), (), 0)
        with FlopCounterMode(display=False) as counter:
            teach(family, task, recipe, _PROBED, 0, 0.1)
        _COUNTED[task.digest, recipe] = counter.get_total_flops() / _PROBED
    return _COUNTED[task.digest, recipe]
