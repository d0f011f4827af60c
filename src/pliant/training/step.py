"""One training step of a family, as a recipe sees it."""

from __future__ import annotations

import math
import random
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from ..checks import NoEffectWarning, PliantError, TrainingDivergedError, WrongShapeError
from ..family.family import Family
from ..family.imitation import View
from ..family.statistics import call
from ..space.config import Config
from ..space.space import Space
from .compute import Parts
from .course import Course, Loss, Seen, as_seen, unregularised
from .optimizer import moments
from .tentative import halves


class TrainingStep:
    """Lets members learn from one batch; their gradients add up in the family's parameters.

    Args:
        family: the family.
        batch: ``(inputs, targets)``, or several of them that count as one (:class:`~pliant.training.Parts`).
        loss: ``loss(outputs, targets)``, a scalar.
        step: the step's number; with ``seed`` it determines the random members.
        seed: the run's seed.
        update: clips, steps the optimizer and clears the gradients; a recipe may ask for it within the step. Without
            it the gradients of all members add up, and the caller's own optimizer step follows.
        course: what stays the same over the steps of the run; made anew if None.
    """

    def __init__(
        self,
        family: Family,
        batch: Any,
        loss: Loss,
        step: int = 0,
        seed: int = 0,
        update: Callable[[], None] | None = None,
        course: Course | None = None,
    ) -> None:
        self.family, self.loss, self.step = family, loss, step
        self.course = course or Course(family, loss, step + 1, seed)
        self.steps, self.memory = self.course.steps, self.course.memory
        self._update = update
        self.space: Space = family.space
        self.rng = random.Random(f"{seed}:{step}")  # a string seed is hashed the same in every process
        self.rate = 1.0
        self.tentative: Callable[[], AbstractContextManager[None]] | None = None  # given by a loop that can take back
        self.optimizer: torch.optim.Optimizer | None = None  # given by a loop that knows it
        self.losses: dict[Config, float] = {}
        self.learnt: list[Config] = []
        self.watched: list[Config] = []
        self.parts = [checked_batch(part) for part in (batch if isinstance(batch, Parts) else (batch,))]
        self._taught: Seen | None = None
        self._recalled: dict[str, Seen] = {}

    def learn(
        self,
        config: Config,
        teacher: Any = None,
        share: float = 1.0,
        temperature: float = 1.0,
        weight: float = 1.0,
        regularise: bool = True,
    ) -> Seen:
        """Run a member forward and backward; returns what it gave, detached.

        Args:
            config: the member.
            teacher: what it shall imitate: what this or :meth:`see`, :meth:`taught` or :meth:`recall` returned, or
                plain outputs.
            share: how much of the loss is distillation from ``teacher``, from 0 to 1; the rest is the task's loss.
            temperature: softens both sides of the distillation.
            weight: multiplies the loss.
            regularise: false turns dropout off for this member.

        Raises:
            WrongShapeError: the loss is not one number or has no gradient, or the teacher's outputs do not match.
            TrainingDivergedError: its loss is NaN or infinite; the message names the member.
        """
        goal = as_seen(teacher, len(self.parts)) if teacher is not None and share != 0.0 else None
        net = self.family.member(config)
        views, total = [], 0.0
        with nullcontext() if regularise else unregularised(net):
            for at, (inputs, targets) in enumerate(self.parts):
                with self.course.autocast():
                    view = self.course.view(net, inputs)
                    loss = self._loss(
                        view, targets, (goal.views[at], goal.by_teacher) if goal else None, share, temperature
                    )
                value = self._finite(loss, config)
                factor = weight / len(self.parts)
                if self._learns(loss, view.outputs, net):
                    self.course.backward(loss * factor if factor != 1.0 else loss)
                total += value / len(self.parts)
                views.append(view.detached())
        self.losses[config] = self.course.together(self.step, config, total)
        self.learnt.append(config)
        return Seen(tuple(views))

    def _learns(self, loss: Tensor, outputs: Any, net: nn.Module) -> bool:
        """Return whether there is a gradient: a small member may hold none but frozen weights."""
        if loss.requires_grad:
            return True
        if not torch.is_grad_enabled():
            raise WrongShapeError(
                "gradients are switched off here, so nothing can be learnt: train outside of torch.no_grad() and "
                "torch.inference_mode()"
            )
        if any(isinstance(leaf, Tensor) and leaf.requires_grad for leaf in pytree.tree_leaves(outputs)):
            raise WrongShapeError(
                "the loss has no gradient, so nothing can be learnt: compute it from the outputs by operations that "
                "have one, without .detach(), .item(), .argmax() or torch.no_grad()"
            )
        if not any(parameter.requires_grad for parameter in self.family.parameters()):
            raise WrongShapeError(
                "all weights of the family are frozen, so nothing can be learnt: "
                "call requires_grad_() on what shall learn"
            )
        if any(parameter.requires_grad for parameter in net.parameters()):
            raise WrongShapeError(
                "the outputs of a member whose weights can learn have no gradient, so nothing can be learnt: its "
                "forward detaches them, or runs under torch.no_grad()"
            )
        return False

    def _loss(
        self, view: View, targets: Any, goal: tuple[View, bool] | None, share: float, temperature: float
    ) -> Tensor:
        if goal is None:
            loss = self.loss(view.outputs, targets)
        else:
            loss = share * self.course.imitate(view, goal[0], targets, temperature, goal[1])
            if share < 1.0:
                loss = loss + (1.0 - share) * self.loss(view.outputs, targets)
        return _one_number(loss, "loss(outputs, targets)")

    def blend(self, probabilities: Mapping[str, Tensor], learn: bool = True) -> dict[str, Tensor]:
        """Run all members at once, each weighted by its probability (:class:`~pliant.family.blend.Blend`).

        Args:
            probabilities: for each choice a vector, as long as it has options.
            learn: add the gradient of the loss to the family's.

        Returns:
            The loss' gradient for each choice's probabilities, the average over all processes.

        Raises:
            PliantError, VerificationError: the family's members cannot be blended.
            TrainingDivergedError: the loss is NaN or infinite.
        """
        blend = self.course.blend
        rows = {name: nn.Parameter(row.detach().clone()) for name, row in probabilities.items()}
        likely = {name: int(row.argmax()) for name, row in rows.items()}
        config = Config({choice.name: choice.options[likely[choice.name]] for choice in self.space.choices})
        total = 0.0
        for inputs, targets in self.parts:
            with self.course.autocast():
                loss = self._loss(View(call(partial(blend, rows), inputs)), targets, None, 0.0, 1.0)
            value = float(loss.detach())
            if not math.isfinite(value):
                raise TrainingDivergedError(
                    f"the loss of the blend of all members is {value} at step {self.step}; try a lower learning rate"
                )
            total += value / len(self.parts)
            if learn:
                self.course.backward(loss / len(self.parts))
            elif rows:
                torch.autograd.backward(loss / len(self.parts), inputs=list(rows.values()))
        scale = 1.0 if self.course.scaler is None or not learn else self.course.scaler.get_scale()
        self.course.processes.average(list(rows.values()), f"blending in step {self.step}")
        self.losses[config] = self.course.together(self.step, config, total)
        return {
            name: torch.zeros_like(row) if row.grad is None else row.grad.detach() / scale for name, row in rows.items()
        }

    def descend(self, config: Config, loss: Callable[[Any], Tensor], beside: Sequence[nn.Parameter] = ()) -> None:
        """Add the gradient of a loss of the recipe's own, which looks at inputs alone.

        Args:
            config: stands for the loss in :attr:`losses`.
            loss: ``loss(inputs)`` runs members of the family as it likes and returns one number. One without a history
                of gradients is measured alone.
            beside: parameters of the recipe's own. Their gradients are the average over all processes; one has none
                where float16 gradients overflowed.

        Raises:
            WrongShapeError: the loss is not one number.
            TrainingDivergedError: it is NaN or infinite; the message names ``config``.
        """
        total, learns = 0.0, False
        for inputs, _ in self.parts:
            with self.course.autocast():
                value = _one_number(loss(inputs), "loss(inputs)")
            total += self._finite(value, config) / len(self.parts)
            learns = value.requires_grad
            if learns:
                self.course.backward(value / len(self.parts))
        if beside:
            self.course.processes.average(list(beside), f"a loss of the recipe's own in step {self.step}")
        for parameter in beside:
            if parameter.grad is not None and self.course.scaler is not None:
                parameter.grad.div_(self.course.scaler.get_scale())
                parameter.grad = parameter.grad if bool(parameter.grad.isfinite().all()) else None
        self.losses[config] = self.course.together(self.step, config, total)
        (self.learnt if learns else self.watched).append(config)

    def _finite(self, loss: Tensor, config: Config) -> float:
        value = float(loss.detach())
        if not math.isfinite(value):
            raise TrainingDivergedError(
                f"the loss of member {config.to_json()} is {value} at step {self.step}; try a lower learning "
                "rate, gradient clipping, or a look at this batch's inputs"
            )
        return value

    def see(self, config: Config) -> Seen:
        """Return what a member gives on the batch in training mode, without learning."""
        self.watched.append(config)
        return self.course.watch(self.family.member(config), self.parts)

    def foresee(self, config: Config, rate: float = 1.0) -> float:
        """Return a member's loss on half of the batch after an optimizer step on the other half, taken back after that.

        Args:
            config: the member.
            rate: multiplies the learning rate of that step.

        Raises:
            PliantError: the loop cannot take a step back, or gradients wait for an update.
            WrongShapeError: the batch has one sample only.
        """
        if self.tentative is None or self._update is None:
            raise PliantError("this loop cannot take optimizer steps back; train by pliant.train to use this recipe")
        kept = (self.parts, self.rate, dict(self.losses), list(self.learnt))
        first, second = zip(*map(halves, self.parts), strict=True)
        try:
            with self.tentative():
                self.parts, self.rate = list(first), rate
                self.learn(config)
                self._update()
                net = self.family.member(config)
                with torch.no_grad(), self.course.autocast():
                    losses = [self._loss(self.course.view(net, x), y, None, 0.0, 1.0) for x, y in second]
                value = sum(float(loss) for loss in losses) / len(losses)
        finally:
            self.parts, self.rate, self.losses, self.learnt = kept
        self.watched += [config, config]  # forward and backward on one half, forward on the other
        return self.course.together(self.step, config, value if math.isfinite(value) else math.inf)

    def taught(self) -> Seen | None:
        """Return what the run's teacher gives on the batch, computed once; ``None`` where there is none."""
        if self._taught is None and self.course.teacher is not None:
            self._taught = self.course.watch(self.course.teacher, self.parts, by_teacher=True)
        return self._taught

    def keep(self, name: str, config: Config) -> None:
        """Keep a frozen copy of a member as it is now, for this step and later ones."""
        self.course.keep(name, config)
        self._recalled.pop(name, None)

    def kept(self, name: str) -> bool:
        """Return whether something is kept under ``name``."""
        return self.course.kept(name)

    def recall(self, name: str) -> Seen:
        """Return what the network kept under ``name`` gives on the batch in evaluation mode, computed once.

        Raises:
            UnknownNameError: nothing is kept under that name.
        """
        if name not in self._recalled:
            net = self.course.network(name)
            self._recalled[name] = self.course.watch(net.eval(), self.parts)
        return self._recalled[name]

    def macs(self, config: Config) -> float:
        """Return a member's multiply-accumulates as a share of the largest member's."""
        return self.course.macs(config)

    def reorder(self, orders: Mapping[str, Sequence[int]]) -> None:
        """Reorder the units of axes in the family; the full network's function stays the same.

        What the optimizer remembers of weights is reordered with them; without a loop that knows the optimizer
        (``optimizer``) it stays. Where features inside members are compared with a teacher's, nothing is reordered.

        Args:
            orders: axis name to a permutation of its units, the first to come first.

        Raises:
            PliantError: gradients wait for an update: they would go to other units.
            UnknownNameError, WrongShapeError: as :meth:`pliant.Family.permute`.
        """
        if any(p.grad is not None and bool(p.grad.any()) for p in self.family.parameters()):
            raise PliantError("reorder() comes before learn(), or after update(): else gradients would be misplaced")
        if self.course.imitation is not None and self.course.imitation.sites:
            warnings.warn(
                "units are not sorted anew: members' features are compared with a teacher's, in the order that they "
                "have; distil by outputs alone (distiller=None) to have them sorted",
                NoEffectWarning,
                stacklevel=2,
            )
            return
        self.family.permute(orders, moments(self.family, self.optimizer))

    def update(self) -> None:
        """Let the optimizer use what has been learnt so far, where the loop allows that; else gradients add up."""
        if self._update is not None:
            self._update()


def _one_number(loss: Any, what: str) -> Tensor:
    if isinstance(loss, Tensor) and loss.numel() == 1 and not loss.is_floating_point():
        raise WrongShapeError(
            f"a loss is a floating-point number that gradients flow from; {what} "
            f"gave one of {loss.dtype}, such as a count"
        )
    if not isinstance(loss, Tensor) or loss.numel() != 1:
        raise WrongShapeError(
            f"a loss is one number as a tensor, such as a mean over the batch; {what} gave "
            + (f"a tensor of shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else repr(loss)[:60])
        )
    return loss


def checked_batch(batch: Any) -> tuple[Any, Any]:
    """Return the inputs and targets of a batch.

    Raises:
        WrongShapeError: it is not a pair.
    """
    if not isinstance(batch, (tuple, list)) or len(batch) != 2:
        raise WrongShapeError(
            f"a batch is a pair (inputs, targets); got {type(batch).__name__}"
            + (f" of {len(batch)}" if isinstance(batch, (tuple, list)) else "")
        )
    return batch[0], batch[1]


def gradient_norm(parameters: Iterable[torch.nn.Parameter], clip: float | None) -> float:
    """Clip the gradients to a total norm of ``clip`` (None: leave them) and return the norm before.

    Where the norm is not finite they stay as they are: no factor mends them, and zeros would become NaN.
    """
    rows = [p for p in parameters if p.grad is not None]
    total = torch.nn.utils.get_total_norm([p.grad for p in rows if p.grad is not None])
    norm = float(total)
    if clip is not None and math.isfinite(norm) and norm + 2e-6 >= clip:  # below, torch would multiply by one
        torch.nn.utils.clip_grads_with_norm_(rows, clip, total)
    return norm
