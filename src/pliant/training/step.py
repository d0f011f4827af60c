"""One training step of a family, as a recipe sees it."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils import _pytree as pytree

from ..checks import TrainingDivergedError, WrongShapeError
from ..family.family import Family
from ..family.statistics import call
from ..space.config import Config
from ..space.space import Space

Loss = Callable[[Any, Any], Tensor]


def distillation_loss(outputs: Any, teacher: Any, temperature: float = 1.0) -> Tensor:
    """Return the loss of a student against a teacher's outputs.

    Floating-point outputs of shape ``(..., classes)`` are taken for logits: the Kullback-Leibler divergence from the
    softened teacher, times the temperature squared (Hinton, Vinyals, Dean, 2015, Distilling the Knowledge in a Neural
    Network, arXiv 1503.02531). A single number per example, of shape ``(batch,)`` or with a last dimension of 1, is
    compared by its squared error.

    Raises:
        WrongShapeError: the two do not have the same tensors.
    """
    left = [v for v in pytree.tree_leaves(outputs) if isinstance(v, Tensor) and v.is_floating_point()]
    right = [v for v in pytree.tree_leaves(teacher) if isinstance(v, Tensor) and v.is_floating_point()]
    if len(left) != len(right) or any(a.shape != b.shape for a, b in zip(left, right, strict=True)) or not left:
        raise WrongShapeError(
            f"a student's outputs {[tuple(v.shape) for v in left]} do not match the teacher's "
            f"{[tuple(v.shape) for v in right]}"
        )
    total = left[0].new_zeros(())
    for student, goal in zip(left, right, strict=True):
        if student.dim() < 2 or student.shape[-1] == 1:
            total = total + F.mse_loss(student, goal)
            continue
        log_p = F.log_softmax(student.flatten(0, -2) / temperature, -1)
        log_q = F.log_softmax(goal.flatten(0, -2) / temperature, -1)
        total = total + F.kl_div(log_p, log_q, reduction="batchmean", log_target=True) * temperature**2
    return total


class TrainingStep:
    """Lets members learn from one batch; their gradients add up in the family's parameters.

    Args:
        family: the family.
        batch: ``(inputs, targets)``.
        loss: ``loss(outputs, targets)``, a scalar.
        step: the step's number; with ``seed`` it determines the random members.
        seed: the run's seed.
        update: clips, steps the optimizer and clears the gradients; a recipe may ask for it within the step. Without
            it the gradients of all members add up, and the caller's own optimizer step follows.
    """

    def __init__(
        self,
        family: Family,
        batch: Any,
        loss: Loss,
        step: int = 0,
        seed: int = 0,
        update: Callable[[], None] | None = None,
    ) -> None:
        self.family, self.loss, self.step = family, loss, step
        self._update = update
        self.space: Space = family.space
        self.rng = random.Random(f"{seed}:{step}")  # a string seed is hashed the same in every process
        self.losses: dict[Config, float] = {}
        if not isinstance(batch, (tuple, list)) or len(batch) != 2:
            raise WrongShapeError(
                f"a batch is a pair (inputs, targets); got {type(batch).__name__}"
                + (f" of {len(batch)}" if isinstance(batch, (tuple, list)) else "")
            )
        self.inputs, self.targets = batch

    def learn(
        self, config: Config, teacher: Any = None, share: float = 1.0, temperature: float = 1.0, weight: float = 1.0
    ) -> Any:
        """Run a member forward and backward; returns its detached outputs.

        Args:
            config: the member.
            teacher: detached outputs that it shall imitate.
            share: how much of the loss is distillation from ``teacher``, from 0 to 1; the rest is the task's loss.
            temperature: softens both sides of the distillation.
            weight: multiplies the loss.

        Raises:
            WrongShapeError: the loss is not one number, or the teacher's outputs do not match.
            TrainingDivergedError: its loss is NaN or infinite; the message names the member.
        """
        outputs = call(self.family.member(config), self.inputs)
        if teacher is None or share == 0.0:
            loss = self.loss(outputs, self.targets)
        else:
            loss = share * distillation_loss(outputs, teacher, temperature)
            if share < 1.0:
                loss = loss + (1.0 - share) * self.loss(outputs, self.targets)
        if not isinstance(loss, Tensor) or loss.numel() != 1:
            raise WrongShapeError(
                "a loss is one number as a tensor, such as a mean over the batch; loss(outputs, targets) gave "
                + (f"a tensor of shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else repr(loss)[:60])
            )
        value = float(loss.detach())
        if not math.isfinite(value):
            raise TrainingDivergedError(
                f"the loss of member {config.to_json()} is {value} at step {self.step}; try a lower learning rate, "
                "gradient clipping, or a look at this batch's inputs"
            )
        (loss * weight if weight != 1.0 else loss).backward()
        self.losses[config] = value
        return pytree.tree_map(lambda v: v.detach() if isinstance(v, Tensor) else v, outputs)

    def update(self) -> None:
        """Let the optimizer use what has been learnt so far, where the loop allows that; else gradients add up."""
        if self._update is not None:
            self._update()


def gradient_norm(parameters: Iterable[torch.nn.Parameter], clip: float | None) -> float:
    """Clip the gradients to a total norm of ``clip`` (None: leave them) and return the norm before."""
    rows = [p for p in parameters if p.grad is not None]
    return float(torch.nn.utils.clip_grad_norm_(rows, clip if clip is not None else float("inf")))
