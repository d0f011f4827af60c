"""The training loop: recipe, optimizer, clipping, guard against NaN, checkpoints and resuming."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch.optim.lr_scheduler import LambdaLR

from .. import catalog
from ..checks import PliantError, TrainingDivergedError, WrongShapeError
from ..family.family import Family
from ..space.config import Config
from ..technique import Recipe
from .checkpoint import latest_checkpoint, load_checkpoint, save_checkpoint
from .step import Loss, TrainingStep, gradient_norm


@dataclass(frozen=True)
class Progress:
    """Where a training run stands: after ``step`` of ``steps``, with the losses of this step's members."""

    step: int
    steps: int
    losses: dict[Config, float] = field(default_factory=dict)
    gradient_norm: float = 0.0
    lr: float = 0.0

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
        optimizer: over ``family.parameters()``; AdamW with lr 1e-3 and weight decay 0.05 if None. Its learning rate is
            warmed up linearly and then decays along a cosine.
        clip: the largest total norm of the gradients; None for no clipping.
        warmup: the share of the steps in which the learning rate rises.
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
    rates = _schedule(optimizer, steps, warmup)
    start = _resume(family, optimizer, Path(folder) if folder else None, seed)
    if start == 0:
        family.prepare()
        torch.manual_seed(seed)
        random.seed(seed)
    for _ in range(start):
        rates.step()
    state = Progress(start, steps)
    was_training = family.model.training
    family.model.train()
    try:
        for step, batch in zip(range(start, steps), _from(batches, start), strict=False):
            state = _one_step(family, batch, loss, (step, steps), recipe, optimizer, (clip, seed))
            rates.step()
            if folder and ((step + 1) % save_every == 0 or step + 1 == steps):
                save_checkpoint(Path(folder), step + 1, family.model, optimizer, {"seed": seed})
            if on_step:
                on_step(state)
    finally:
        family.model.train(was_training)
    if state.step < steps:
        raise WrongShapeError(
            f"the batches ended after {state.step} of {steps} steps; give as many, or an endless iterator"
        )
    return state


def _one_step(
    family: Family,
    batch: Any,
    loss: Loss,
    at: tuple[int, int],
    recipe: Recipe,
    optimizer: torch.optim.Optimizer,
    settings: tuple[float | None, int],
) -> Progress:
    (step, steps), (clip, seed) = at, settings
    optimizer.zero_grad(set_to_none=True)
    turn = TrainingStep(family, batch, loss, step, seed)
    recipe.step(turn)
    norm = gradient_norm(family.parameters(), clip)
    if not math.isfinite(norm):
        raise TrainingDivergedError(
            f"the gradients are {norm} at step {step}, after members {[c.to_json() for c in turn.losses]}; "
            "try a lower learning rate"
        )
    optimizer.step()
    return Progress(step + 1, steps, turn.losses, norm, float(optimizer.param_groups[0]["lr"]))


def _schedule(optimizer: torch.optim.Optimizer, steps: int, warmup: float) -> LambdaLR:
    rise = max(1, round(steps * warmup))

    def rate(step: int) -> float:
        if step < rise:
            return (step + 1) / rise
        return 0.5 * (1 + math.cos(math.pi * (step - rise) / max(1, steps - rise)))

    return LambdaLR(optimizer, rate)


def _resume(family: Family, optimizer: torch.optim.Optimizer, folder: Path | None, seed: int) -> int:
    path = latest_checkpoint(folder) if folder else None
    if path is None:
        return 0
    header = load_checkpoint(path, family.model, optimizer)
    if header.get("seed") != seed:
        raise PliantError(
            f"{path.parent} holds the checkpoints of a run with seed {header.get('seed')}, this run has seed {seed}; "
            "use the same seed or another folder"
        )
    family.prepared = True  # the weights of the checkpoint are sorted already
    return int(header["step"])


def _from(batches: Iterable[Any] | Callable[[int], Iterator[Any]], start: int) -> Iterator[Any]:
    if callable(batches):
        return iter(batches(start))
    return islice(iter(batches), start, None)
