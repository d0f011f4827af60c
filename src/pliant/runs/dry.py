"""The dry run: everything that could go wrong late is tried early, and the time that the rest takes is foretold."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from .. import catalog
from ..checks import PliantError, WrongShapeError
from ..family.family import Family
from ..family.statistics import arguments, keeping_modes
from ..measure import Bytes, Metric, Params, PeakMemory
from ..measure.timing import torch_threads
from ..report import Check
from ..space.constraint import Constraint
from ..study.given import checked_objectives
from ..study.problem import problem_of
from ..tasks import Task
from ..technique import Recipe
from ..training.step import TrainingStep
from .build import check_measures, on_measures
from .members import macs_of_one

_TIMED = 8  # training steps whose time is averaged
_WORTH = 1.5  # how many times faster all threads must be than one to be worth it


@dataclass(frozen=True)
class DryRun:
    """What the dry run found: the checks that passed, the threads to train with, the seconds and bytes to expect."""

    checks: tuple[Check, ...]
    threads: int
    step_seconds: float
    evaluation_seconds: float
    memory_bytes: float

    def foretell(self, steps: int, budget: int) -> str:
        """Say how long training and search will take and how much memory training needs."""
        train, search = self.step_seconds * steps, self.evaluation_seconds * budget
        return (
            f"expect about {_minutes(train)} of training and {_minutes(search)} of search, "
            f"and {self.memory_bytes / 2**20:.0f} MiB for weights, gradients, optimiser and activations"
        )


def _minutes(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.0f} min"


def dry_run(
    family: Family, task: Task, seed: int, constraints: Sequence[str] = (), recipe: Recipe | None = None
) -> DryRun:
    """Try a training step, an evaluation, an extraction and the equality of both forms; leave everything as it was.

    ``recipe`` is the one whose steps are timed, the catalogue's default if None.

    Raises:
        PliantError: whatever would have gone wrong later; among them VerificationError where the forms disagree.
    """
    if family.space.size == 1:
        raise PliantError(
            "nothing bends: no technique found a choice with more than one option in this network; "
            "`pliant analyze` lists what is kept fixed and why"
        )
    with _undone(family):
        checks = _equality(family)
        batch = next(task.batches(seed))
        threads, step_seconds = _best_threads(family, task, batch, recipe)
        start = time.perf_counter()
        config = family.space.smallest()
        figures = task.evaluate(family.ready(config), "validation")
        evaluation = time.perf_counter() - start
        macs_of_one(family).measure(family.ready(config))
        start = time.perf_counter()
        task.evaluate(family.ready(family.space.largest()), "validation")
        evaluation = (evaluation + time.perf_counter() - start) / 2
        checks += (Check("the task evaluates", True, ", ".join(f"{n} {v:.3g}" for n, v in figures.items())),)
        check_measures(constraints, family, next(iter(figures)))
        _searchable(constraints, family, next(iter(figures)), seed)
        memory = _memory(family, batch)
    return DryRun(checks, threads, step_seconds, evaluation, memory)


def _searchable(constraints: Sequence[str], family: Family, error: str, seed: int) -> None:
    """Raise :class:`WrongShapeError` where the search would not begin.

    Counting shows that no member keeps the constraints on measured values, or the name of the task's error is taken.
    """
    if error in ("macs", "params", "bytes", "memory") or error.startswith("latency"):
        raise WrongShapeError(
            f"the task calls its error {error!r}, which is what a report calls a cost: name it otherwise"
        )
    checked_objectives([Metric(error, id)], family.space)
    limits = [Constraint.parse(text) for text in on_measures(constraints, family)]
    if limits:
        macs = macs_of_one(family)
        problem_of(family, [macs], [macs, Params(), Bytes()], limits, seed)


@contextmanager
def _undone(family: Family) -> Iterator[None]:
    """Put weights, statistics, modes and every random state back."""
    weights = {name: tensor.clone() for name, tensor in family.model.state_dict().items()}
    extra = {name: tensor.clone() for name, tensor in family.extra.state().items()}
    python, legacy = random.getstate(), np.random.get_state()  # noqa: NPY002
    devices = [torch.cuda.current_device()] if torch.cuda.is_initialized() else []
    try:
        with keeping_modes(family.model), torch.random.fork_rng(devices):
            yield
    finally:
        family.model.load_state_dict(weights)
        family.extra.load(extra)
        for parameter in family.parameters():
            parameter.grad = None
        family.forget()
        random.setstate(python)
        np.random.set_state(legacy)  # noqa: NPY002


def _equality(family: Family) -> tuple[Check, ...]:
    rng = random.Random(0)
    configs = [family.space.smallest(), *(family.space.sample(rng) for _ in range(2))]
    worst = max(family.verify(config) for config in configs)
    for config in configs:
        family.extract(config)  # raises where the copy differs from the member
    form = "the user's own class" if family.form == "module" else f"the captured graph ({family.why_graph})"
    return (
        Check("captured", True, f"in {family.analysis.seconds.get('capture', 0.0):.2f} s; members are {form}"),
        Check("both forms agree", worst <= 1e-5, f"largest difference {worst:.1e}, at most 1e-5 allowed"),
        Check("extracted networks equal their members", True, f"{len(configs)} tried, at most 1e-6 apart allowed"),
    )


def _best_threads(family: Family, task: Task, batch: Any, recipe: Recipe | None) -> tuple[int, float]:
    """Return the number of torch threads with which a training step is fastest: small networks want one."""
    times = {}
    for threads in dict.fromkeys((1, torch.get_num_threads())):
        with torch_threads(threads):
            times[threads] = min(_one_step(family, task, batch, recipe) for _ in range(2))
    most = max(times)
    # Threads that wait for each other on a busy machine lose far more than they win on a quiet one.
    best = most if times[most] < times[1] / _WORTH else 1
    return best, times[best]


def _one_step(family: Family, task: Task, batch: Any, recipe: Recipe | None) -> float:
    """Return the seconds of a training step, on average over several: members of different sizes have their turns."""
    recipe = recipe or catalog.default("train")  # type: ignore[assignment]
    assert isinstance(recipe, Recipe)
    family.model.train()
    start = time.perf_counter()
    for step in range(_TIMED):
        family.model.zero_grad(set_to_none=True)
        recipe.step(TrainingStep(family, batch, task.loss, step))
    return (time.perf_counter() - start) / _TIMED


def _memory(family: Family, batch: Any) -> float:
    """Return weights, gradients and two moments of an optimiser, plus the activations of one batch, in bytes."""
    weights = sum(p.numel() * p.element_size() for p in family.parameters())
    activations = PeakMemory(*arguments(batch[0])).measure(family.ready(family.space.largest())).value - weights
    layers = max(1, len(family.analysis.sites))
    return 4 * weights + max(0.0, activations) * layers
