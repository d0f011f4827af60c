"""One step of a training run: rates, the recipe's step, and how gradients become optimizer steps."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch

from ..checks import TrainingDivergedError, WrongShapeError
from ..space.config import Config
from ..technique import Recipe
from .course import Course
from .step import TrainingStep, gradient_norm
from .tentative import tentative


@dataclass(frozen=True)
class Progress:
    """Where a training run stands: after ``step`` of ``steps``, with the losses of this step's members."""

    step: int
    steps: int
    losses: dict[Config, float] = field(default_factory=dict)
    """By member; the average over all processes where several train together."""
    gradient_norm: float = 0.0
    """Before clipping; infinite where float16 gradients overflowed, and the optimizer left the step out."""
    lr: float = 0.0
    """The first group's, by the schedule; where a recipe scales it for some of its members, that comes on top."""
    learnt: tuple[Config, ...] = ()
    """The members that ran forward and backward in this step, in order."""
    watched: tuple[Config, ...] = ()
    """The members that ran forward alone."""
    memory: dict[str, Any] = field(init=False, default_factory=dict, compare=False, repr=False)
    """What the recipe remembers: some learn more than weights, such as which members are good."""

    @property
    def loss(self) -> float:
        """The loss of the step's first member (the largest, in most recipes)."""
        return next(iter(self.losses.values()), math.nan)


@dataclass(frozen=True)
class Stepping:
    """What every step of a run needs to know.

    Args:
        course: the run.
        recipe: which members learn.
        optimizer: of the family's parameters.
        clip: the largest total norm of the gradients; None for no clipping.
        warmup: the share of the steps in which the learning rate rises; None leaves all rates to the caller.
        schedule: the factor of the learning rate after that.
        apply: makes the last optimizer step of each training step; ``optimizer.step`` if None.
    """

    course: Course
    recipe: Recipe
    optimizer: torch.optim.Optimizer
    clip: float | None = 1.0
    warmup: float | None = None
    schedule: Callable[[float], float] = lambda done: 1.0
    apply: Callable[[], Any] | None = None

    def step(self, batch: Any, step: int) -> Progress:
        """Do training step ``step`` (from 0) on a batch, or on :class:`~pliant.training.compute.Parts`."""
        course, optimizer = self.course, self.optimizer
        family = course.family
        if not family.model.training:  # at first, and where the caller evaluated
            family.model.train()
        if course.imitation is not None:
            course.imitation.train()
            course.imitation.done = step / course.steps
        self._set_rates(step)
        self._clear()

        def update() -> None:
            self._optimise(turn, None)
            self._clear()

        turn = TrainingStep(family, batch, course.loss, step, course.seed, update, course)
        turn.tentative, turn.optimizer = partial(tentative, course, optimizer), optimizer
        self.recipe.step(turn)
        norm, lr = self._optimise(turn, self.apply), float(optimizer.param_groups[0]["lr"])
        done = Progress(step + 1, course.steps, turn.losses, norm, lr, tuple(turn.learnt), tuple(turn.watched))
        done.memory.update(course.memory)
        return done

    def _clear(self) -> None:
        """Take the gradients away, those of weights that the optimizer does not have too.

        What members wrote to alone is cleared before the optimizer clears the rest.
        """
        self.course.family.zero_grad()
        self.optimizer.zero_grad(set_to_none=True)

    def _optimise(self, turn: TrainingStep, apply: Callable[[], Any] | None) -> float:
        """Average over processes, clip, check, and let the optimizer step; returns the gradients' norm."""
        optimizer, scaler = self.optimizer, self.course.scaler
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        self.course.processes.average(parameters, f"an optimizer step in step {turn.step}")
        with self.course.family.gradients.scaling():
            if scaler is not None and any(p.grad is not None for p in parameters):
                scaler.unscale_(optimizer)
            norm = gradient_norm(parameters, self.clip)
        if not math.isfinite(norm) and scaler is None:
            raise TrainingDivergedError(
                f"the gradients are {norm} at step {turn.step}, after members {[c.to_json() for c in turn.losses]}; "
                "try a lower learning rate"
            )
        with _scaled(optimizer, turn.rate):
            if scaler is None:
                (apply or optimizer.step)()
            elif any(p.grad is not None for p in parameters):
                self._step_scaled(scaler, turn)
        return norm

    def _step_scaled(self, scaler: torch.amp.GradScaler, turn: TrainingStep) -> None:
        scaler.step(self.optimizer)
        scaler.update()
        if scaler.get_scale() < 1.0:
            raise TrainingDivergedError(
                f"the gradients overflow float16 at step {turn.step} however little the loss is scaled; try "
                "Compute(precision='bfloat16') or a lower learning rate"
            )

    def _set_rates(self, step: int) -> None:
        """Set every group's learning rate as a function of the step alone, so that a resumed run needs no state."""
        if self.warmup is None:
            return
        steps = self.course.steps
        rise = max(1, round(steps * self.warmup))
        rate = (step + 1) / rise if step < rise else self._scheduled((step - rise) / max(1, steps - rise))
        for group in self.optimizer.param_groups:
            group["lr"] = group.setdefault("initial_lr", group["lr"]) * rate

    def _scheduled(self, done: float) -> float:
        found = self.schedule(done)
        try:
            rate = float(found)
        except (TypeError, ValueError):
            rate = math.nan
        if not 0 <= rate < math.inf:
            raise WrongShapeError(
                f"a schedule gives a factor of the learning rate, 0 or more; "
                f"at {done:.3g} of the steps it gave {found!r:.60}"
            )
        return rate


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
