"""The training loop: recipe, optimizer, clipping, guard against NaN, checkpoints and resuming."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..checks import WrongShapeError
from ..family.family import Family
from ..family.statistics import keeping_modes
from ..technique import Distiller, Recipe
from .arguments import check_parts, checked_numbers, checked_optimizer, checked_recipe
from .batches import Batches, batches_from
from .checkpoint import latest_checkpoint, load_checkpoint, save_checkpoint, writable
from .compute import Compute, grouped
from .course import Course, Loss, imitating
from .heap import set_aside
from .noise import Noise
from .stepping import Progress, Stepping


def train(
    family: Family,
    batches: Batches,
    loss: Loss,
    *,
    steps: int,
    recipe: Recipe | None = None,
    optimizer: torch.optim.Optimizer | None = None,
    clip: float | None = 1.0,
    warmup: float | None = 0.05,
    schedule: Callable[[float], float] | None = None,
    teacher: nn.Module | None = None,
    distiller: Distiller | None = None,
    folder: str | Path | None = None,
    save_every: int = 200,
    seed: int = 0,
    compute: Compute | None = None,
    on_step: Callable[[Progress], None] | None = None,
) -> Progress:
    """Train one set of weights that serves all members of a family.

    Args:
        family: the family; its model is trained in place. Units are sorted by importance first (once).
        batches: pairs ``(inputs, targets)``, or a function that gives them from the n-th on (for a cheap resume; n is
            a step's number unless a step takes several); inputs are a tensor, a tuple or a dict of arguments.
        loss: ``loss(outputs, targets)`` gives a scalar.
        steps: how many optimizer steps in all.
        recipe: which members learn at each step; the catalogue's default if None.
        optimizer: AdamW with lr 1e-3 and weight decay 0.05 if None; the rate is warmed up, then follows the schedule.
        clip: the largest total norm of the gradients; None for no clipping.
        warmup: the share of the steps in which the learning rate rises; None leaves all rates to you.
        schedule: the factor of the rate after that, by the share of the steps done (0 to 1); the recipe's own if None.
        teacher: a network that the largest member learns from too; in evaluation mode, without gradients.
        distiller: how members imitate the teacher, or the largest member where there is none; by their outputs alone
            if None. What it trains beside the family is dropped afterwards.
        folder: where checkpoints are kept; a run goes on from the last there, if seed, recipe, choices and the kind of
            optimizer are the same; learning rate and weight decay are those given now.
        save_every: steps between checkpoints.
        seed: determines which members are drawn.
        compute: number formats, batches per step, memory for time, many processes.
        on_step: called after every step.

    Returns:
        The state after the last step.

    Raises:
        TrainingDivergedError: a loss or gradient became NaN or infinite; the last checkpoint is kept.
        WrongShapeError: batches are no pairs or too few, the loss has no gradient, or a number is out of range.
        CorruptFileError: the newest checkpoint cannot be read.
        PliantError: the folder holds another run or is not writable, or another process stopped or trains otherwise.
    """
    steps, save_every, seed = checked_numbers(steps, save_every, seed)
    check_parts(family, loss, teacher, compute, (clip, warmup, schedule))
    recipe, optimizer = checked_recipe(recipe), checked_optimizer(optimizer, family)
    course = Course(family, loss, steps, seed, teacher, compute=compute or Compute()).joined()
    stepping = Stepping(course, recipe, optimizer, clip, warmup, schedule or recipe.rate)
    run = _Run(stepping, Path(folder) if folder else None, save_every, on_step)
    with course.processes.together(), keeping_modes(family.model), imitating(course, distiller, optimizer):
        return run.go(batches)


@dataclass(frozen=True)
class _Run:
    """All steps of a run, and its checkpoints."""

    stepping: Stepping
    folder: Path | None
    save_every: int
    on_step: Callable[[Progress], None] | None

    @set_aside()
    def go(self, batches: Batches) -> Progress:
        """Do all steps, from the last checkpoint on if there is one."""
        course = self.stepping.course
        family, steps, size = course.family, course.steps, course.compute.accumulate
        noise = Noise(course.processes, course.seed)
        course.processes.agree(self._facts())
        start, taken = self._resume(noise)
        if self.folder and course.processes.rank == 0 and start < steps:
            writable(self.folder)  # before the first steps, and not after them
        self._prepare(start)
        state = Progress(start, steps)
        given = grouped(batches_from(batches, taken, course.seed, family), size)
        for step, batch in zip(range(start, steps), given, strict=False):
            with noise.own():
                state = self.stepping.step(batch, step)
            if self.folder and ((step + 1) % self.save_every == 0 or step + 1 == steps):
                self._save(self.folder, step + 1, taken + (step + 1 - start) * size, noise)
            if self.on_step:
                with noise.own():
                    self.on_step(state)
        if state.step < steps:
            each = f" of {size} batches" if size > 1 else ""
            raise WrongShapeError(
                f"the batches ended after {state.step} of {steps} steps{each}; give as many, or an endless "
                "iterator: a loop over the loader within `while True:`"
            )
        course.processes.share(family.model.buffers())
        return state

    def _facts(self) -> dict[str, str]:
        """Return what must be the same in all processes."""
        stepping, course = self.stepping, self.stepping.course
        groups = [
            {name: value for name, value in group.items() if name != "params"}
            for group in stepping.optimizer.param_groups
        ]
        return {
            "the space": repr(course.family.space) + course.family.space.digest,
            "the network": repr([(tuple(p.shape), str(p.dtype)) for p in course.family.parameters()]),
            "the recipe": repr(stepping.recipe),
            "the distiller": repr(course.imitation),
            "the teacher": type(course.teacher).__name__,
            "the optimizer": f"{type(stepping.optimizer).__name__} {groups}",
            "steps": str(course.steps),
            "seed": str(course.seed),
            "clip": str(stepping.clip),
            "warmup": str(stepping.warmup),
            "compute": str(course.compute),
            "save_every": str(self.save_every if self.folder else None),
        }

    def _kept(self) -> dict[str, Any]:
        """Return what must be the same in a run that goes on; rates may be changed, as where one was too high."""
        stepping, course = self.stepping, self.stepping.course
        own = {"seed": course.seed, "optimizer type": type(stepping.optimizer).__name__}
        return own | course.marks(stepping.recipe)

    def _prepare(self, start: int) -> None:
        """Bring the weights of a new run in order; all processes begin with those of the first."""
        course = self.stepping.course
        course.processes.share(course.state())
        course.family.prepare()
        if start == 0:
            self.stepping.recipe.prepare(course.family)
            course.processes.share(course.state())

    def _save(self, folder: Path, step: int, taken: int, noise: Noise) -> None:
        course = self.stepping.course
        course.processes.share(course.family.model.buffers())
        header = {**self._kept(), "batches": taken}
        held = course.held() | {"noise": noise.held()}
        if course.processes.rank == 0:
            save_checkpoint(folder, step, course.family.model, self.stepping.optimizer, header, held)
        course.processes.meet(f"the checkpoint after step {step}")

    def _resume(self, noise: Noise) -> tuple[int, int]:
        """Go on from the last checkpoint; returns how many steps and batches are done."""
        course = self.stepping.course
        first = course.processes.rank == 0
        with course.processes.file(latest_checkpoint(self.folder) if self.folder and first else None) as path:
            if path is None:
                return 0, 0
            family = course.family
            header = load_checkpoint(path, family.model, self.stepping.optimizer, self._kept(), course.steps)
        course.take(header["held"])
        noise.take(header["held"].get("noise", {}))
        family.prepared = True  # the weights of the checkpoint are sorted already
        return int(header["step"]), int(header.get("batches", header["step"]))
