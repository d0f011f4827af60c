"""From a task's name and a run's settings to the family."""

from __future__ import annotations

from collections.abc import Container, Sequence
from importlib import import_module
from typing import Any

import torch

from ..checks import unknown
from ..family.family import Family
from ..family.statistics import arguments
from ..graph.analysis import analyze
from ..measure.inference import evaluating
from ..space.constraint import Constraint
from ..tasks import Task
from ..tasks.guard import guarded
from .spec import elastic

_CALIBRATION_SEED = 7919  # batches for normalisation statistics are drawn apart from those of training


def default_choices() -> tuple[str, ...]:
    """Return the names of the techniques that add choices unless the user says otherwise."""
    return tuple(import_module("pliant.techniques.elastic").DEFAULTS)


def build_family(task: Task, choices: Sequence[str], constraints: Sequence[str], seed: int) -> Family:
    """Make the task's network, seeded, and its family."""
    torch.manual_seed(seed)
    model, (args, kwargs), techniques = task.model(), task.example(), elastic(choices)
    with torch.random.fork_rng(devices=[]), guarded(task.source, "model"), evaluating(model):
        model(*args, **kwargs)  # what it cannot do by itself is the task's fault, and said so
    analysis = analyze(model, args, kwargs)
    offered = {choice.name for technique in techniques for choice in technique.choices(analysis)}
    mine = [text for text in constraints if _is_choice(text, offered)]
    family = Family(model, args, techniques, kwargs, mine, analysis)
    calibrate(family, task, seed)
    return family


def calibrate(family: Family, task: Task, seed: int) -> None:
    """Give the family the batches from which members estimate their normalisation statistics."""
    family.calibrate_with(task.batches(seed + _CALIBRATION_SEED))


def _is_choice(constraint: str, names: Container[str]) -> bool:
    name = Constraint.parse(constraint).name
    return name in names or "." in name  # a misspelt choice too: the space then says which is nearest


def on_measures(constraints: Sequence[str], family: Family) -> list[str]:
    """Return the constraints that speak about measured values: the others were those of the family's space."""
    names = {choice.name for choice in family.space.choices}
    return [text for text in constraints if not _is_choice(text, names)]


def check_measures(constraints: Sequence[str], family: Family, error: str) -> None:
    """Raise :class:`UnknownNameError` where a constraint names something that the search does not measure."""
    known = (error, "macs", "params", "bytes")
    for text in on_measures(constraints, family):
        if Constraint.parse(text).name not in known:
            raise unknown(f"choice or measured value (for the constraint '{text}')", Constraint.parse(text).name, known)


def timing_args(task: Task, seed: int) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return one training batch's inputs as the arguments ``(args, kwargs)`` that latency is measured on."""
    return arguments(next(task.batches(seed))[0])
