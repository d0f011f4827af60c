"""From a task's name and a run's settings to the family."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from typing import Any

import torch

from ..checks import PliantError
from ..family.family import Family
from ..space.constraint import Constraint
from ..tasks import Task
from .spec import elastic

_CALIBRATION_SEED = 7919  # batches for normalisation statistics are drawn apart from those of training


def default_choices() -> tuple[str, ...]:
    """Return the names of the techniques that add choices unless the user says otherwise."""
    return tuple(import_module("pliant.techniques.elastic").DEFAULTS)


def build_family(task: Task, choices: Sequence[str], constraints: Sequence[str], seed: int) -> Family:
    """Make the task's network, seeded, and its family."""
    torch.manual_seed(seed)
    family = Family(task.model(), task.example_args(), elastic(choices), constraints=on_choices(constraints))
    calibrate(family, task, seed)
    return family


def calibrate(family: Family, task: Task, seed: int) -> None:
    """Give the family the batches from which members estimate their normalisation statistics."""
    family.calibrate_with(task.batches(seed + _CALIBRATION_SEED))


MEASURED = ("macs", "params", "bytes", "memory", "latency")


def on_choices(constraints: Sequence[str]) -> list[str]:
    """Return the constraints that speak about choices: those on measured values are the study's."""
    return [text for text in constraints if "." in Constraint.parse(text).name]


def on_measures(constraints: Sequence[str]) -> list[str]:
    """Return the constraints that speak about measured values."""
    return [text for text in constraints if "." not in Constraint.parse(text).name]


def timing_args(task: Task, seed: int) -> tuple[Any, ...]:
    """Return one training batch's inputs as the arguments that latency is measured on.

    Raises:
        PliantError: the inputs are keyword arguments, which exported files are not timed with.
    """
    inputs = next(task.batches(seed))[0]
    if isinstance(inputs, (tuple, list)):
        return tuple(inputs)
    if isinstance(inputs, dict):
        raise PliantError(
            f"task {task.name!r} gives its inputs as a dict; a run exports and times positional arguments: "
            "yield ((x, y, …), targets) instead"
        )
    return (inputs,)
