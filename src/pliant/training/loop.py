"""The training loop: recipe, optimizer, clipping, guard against NaN, checkpoints and resuming."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from .. import catalog
from ..checks import PliantError, TrainingDivergedError, WrongShapeError
from ..family.family import Family
from ..family.statistics import keeping_modes
from ..space.config import Config
from ..technique import Distiller, Recipe
from .checkpoint import latest_checkpoint, load_checkpoint, random_states, save_checkpoint, set_random_states
from .course import Course, Loss, imitating
from .step import TrainingStep, gradient_norm


@dataclass(frozen=True)
class Progress:
    """Where a training run stands: after ``step`` of ``steps``, with the losses of this step's members."""

    step: int
    steps: int
    losses: dict[Config, float] = field(default_factory=dict)
    gradient_norm: float = 0.0
    lr: float = 0.0
    learnt: tuple[Config, ...] = ()
    """The members that ran forward and backward in this step, in order."""
    watched: tuple[Config, ...] = ()
    """The members that ran forward alone."""

    @property
    def loss(self) -> float:
        """The loss of the step's first member (the largest, in most recipes)."""
        return next(iter(self.losses.values()), math.nan)


def train(
    family: Family,
    batches: Iterable[Any] | Callable[[int], Iterator[Any]],
    loss: Loss,
    *,
    steps: int,
    recipe: Recipe | None = None,
    optimizer: torch.optim.Optimizer | None = None,
    clip: float | None = 1.0,
    warmup: float = 0.05,
    schedule: Callable[[float], float] | None = None,
    teacher: nn.Module | None = None,
    distiller: Distiller | None = None,
    folder: str | Path | None = None,
    save_every: int = 200,
    seed: int = 0,
    on_step: Callable[[Progress], None] | None = None,
) -> Progress:
    """Train one set of weights that serves all members of a family.

    Args:
        family: the family; its model is trained in place. Units are sorted by importance first (once).
        batches: pairs ``(inputs, targets)``, or a function of the first step's number that gives them (for a cheap
            resume); the inputs are a tensor, a tuple of arguments or a dict of keyword arguments.
        loss: ``loss(outputs, targets)`` gives a scalar.
        steps: how many optimizer steps in all.
        recipe: which members learn at each step; the catalogue's default if None.
        optimizer: AdamW with lr 1e-3 and weight decay 0.05 if None; the rate is warmed up, then follows the schedule.
        clip: the largest total norm of the gradients; None for no clipping.
        warmup: the share of the steps in which the learning rate rises.
        schedule: the factor of the learning rate after the warm-up, given the share of the steps done (0 to 1); the
            recipe's own if None, a cosine for most.
        teacher: a network that the largest member learns from, beside the labels; called on a batch's inputs in
            evaluation mode, without gradients.
        distiller: how members imitate the teacher, or the largest member where there is none; by their outputs alone
            if None. What it trains beside the family is dropped afterwards.
        folder: where checkpoints are kept; a run that finds some there goes on from the last.
        save_every: steps between checkpoints.
        seed: determines which members are drawn.
        on_step: called after every step.

    Returns:
        The state after the last step.

    Raises:
        TrainingDivergedError: a loss or gradient became NaN or infinite; the last checkpoint is kept.
        WrongShapeError: a batch is not a pair, or there are fewer batches than steps.
        CorruptFileError: the newest checkpoint cannot be read.
    """
    if steps < 0:
        raise WrongShapeError(f"steps is 0 or more; got {steps}")
    recipe = recipe or catalog.default("train")  # type: ignore[assignment]
    if not isinstance(recipe, Recipe):
        raise PliantError(f"recipe is a training technique such as pliant.catalog.default('train'); got {recipe!r}")
    optimizer = optimizer or torch.optim.AdamW(family.parameters(), lr=1e-3, weight_decay=0.05)
    course = Course(family, loss, steps, seed, teacher)
    plan = _Plan(course, recipe, optimizer, clip, warmup, schedule or recipe.rate)
    with keeping_modes(family.model), imitating(course, distiller, optimizer):
        return plan.run(batches, Path(folder) if folder else None, save_every, on_step)


@dataclass(frozen=True)
class _Plan:
    """What one step needs to know."""

    course: Course
    recipe: Recipe
    optimizer: torch.optim.Optimizer
    clip: float | None
    warmup: float
    schedule: Callable[[float], float]

    def run(
        self,
        batches: Iterable[Any] | Callable[[int], Iterator[Any]],
        folder: Path | None,
        save_every: int,
        on_step: Callable[[Progress], None] | None,
    ) -> Progress:
        """Do all steps, from the last checkpoint on if there is one."""
        course = self.course
        start = _resume(course, self.optimizer, folder)
        course.family.prepare()
        if start == 0:
            self.recipe.prepare(course.family)
        state = Progress(start, course.steps)
        for step, batch in zip(
            range(start, course.steps), _from(batches, start, course.seed, course.family), strict=False
        ):
            state = self.step(batch, step)
            if folder and ((step + 1) % save_every == 0 or step + 1 == course.steps):
                header = {"seed": course.seed}
                save_checkpoint(folder, step + 1, course.family.model, self.optimizer, header, course.held())
            if on_step:
                on_step(state)
        self.check_complete(state)
        return state

    def step(self, batch: Any, step: int) -> Progress:
        """Do one training step."""
        course = self.course
        family, optimizer = course.family, self.optimizer
        if not family.model.training:  # at first, and where `on_step` evaluated
            family.model.train()
        if course.imitation is not None:
            course.imitation.train()
            course.imitation.done = step / course.steps
        self._set_rates(step)
        optimizer.zero_grad(set_to_none=True)

        def optimise() -> float:
            norm = gradient_norm((p for group in optimizer.param_groups for p in group["params"]), self.clip)
            if not math.isfinite(norm):
                raise TrainingDivergedError(
                    f"the gradients are {norm} at step {step}, after members {[c.to_json() for c in turn.losses]}; "
                    "try a lower learning rate"
                )
            with _scaled(optimizer, turn.rate):
                optimizer.step()
            return norm

        def update() -> None:
            optimise()
            optimizer.zero_grad(set_to_none=True)

        turn = TrainingStep(family, batch, course.loss, step, course.seed, update, course)
        self.recipe.step(turn)
        norm, lr = optimise(), float(optimizer.param_groups[0]["lr"])
        return Progress(step + 1, course.steps, turn.losses, norm, lr, tuple(turn.learnt), tuple(turn.watched))

    def _set_rates(self, step: int) -> None:
        """Set every group's learning rate as a function of the step alone, so that a resumed run needs no state."""
        steps = self.course.steps
        rise = max(1, round(steps * self.warmup))
        rate = (step + 1) / rise if step < rise else self.schedule((step - rise) / max(1, steps - rise))
        for group in self.optimizer.param_groups:
            group["lr"] = group.setdefault("initial_lr", group["lr"]) * rate

    def check_complete(self, state: Progress) -> None:
        """Complain where the batches ended early."""
        steps = self.course.steps
        if state.step < steps:
            raise WrongShapeError(
                f"the batches ended after {state.step} of {steps} steps; give as many, or an endless iterator"
            )


@contextmanager
def _scaled(optimizer: torch.optim.Optimizer, factor: float) -> Iterator[None]:
    """Multiply every learning rate by ``factor`` for a moment."""
    rates = [group["lr"] for group in optimizer.param_groups]
    try:
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = rate * factor if factor != 1.0 else rate
        yield
    finally:
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = rate


def _resume(course: Course, optimizer: torch.optim.Optimizer, folder: Path | None) -> int:
    path = latest_checkpoint(folder) if folder else None
    if path is None:
        return 0
    family = course.family
    header = load_checkpoint(path, family.model, optimizer, {"seed": course.seed})
    course.take(header["held"])
    family.prepared = True  # the weights of the checkpoint are sorted already
    return int(header["step"])


def _from(
    batches: Iterable[Any] | Callable[[int], Iterator[Any]], start: int, seed: int, family: Family
) -> Iterator[Any]:
    """Return the batches from ``start`` on, with torch's generators as they stood then in a run that was not stopped.

    Where normalisation has running statistics, the first ones are kept for estimating those of members.
    """
    if callable(batches) and family.uncalibrated:
        family.calibrate_with(batches(0))
    states = random_states()
    torch.manual_seed(seed)
    random.seed(seed)
    if callable(batches):
        iterator = iter(batches(start))
    else:
        iterator = iter(batches)
        if family.uncalibrated:
            iterator = _collected(iterator, family)
        for _ in range(start):  # what they draw while they are skipped, they drew the first time too
            next(iterator, None)
    if start:
        set_random_states(states)
    return iterator


def _collected(iterator: Iterator[Any], family: Family, count: int = 16) -> Iterator[Any]:
    seen: list[Any] = []
    try:
        for batch in iterator:
            if len(seen) < count and isinstance(batch, (tuple, list)):
                seen.append(batch)
                if len(seen) == count:
                    family.calibrate_with(seen)
            yield batch
    finally:
        if 0 < len(seen) < count:
            family.calibrate_with(seen)
