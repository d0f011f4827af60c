"""A family as a Lightning module: Lightning brings loaders, devices and checkpoints, a recipe does the step."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from ..checks import PliantError, require
from ..technique import Recipe
from .arguments import checked_recipe
from .checkpoint import compare
from .compute import Parts
from .course import Course
from .optimizer import default_optimizer
from .stepping import Progress, Stepping

if TYPE_CHECKING:
    LightningModule = Any
else:
    LightningModule = require("lightning.pytorch", "lightning").LightningModule

_PRECISIONS = ("32", "32-true", "64", "64-true")


class FamilyModule(LightningModule):
    """Trains a family under ``lightning.pytorch.Trainer``, as :func:`pliant.train` would.

    ``trainer.global_step`` counts training steps, whatever optimizer steps a recipe makes in between. Where the trainer
    starts several processes, gradients are averaged as in :func:`pliant.train`.

    Args:
        course: the run: family, loss, steps, seed, teacher and compute. What Trainer knows as ``precision`` and
            ``accumulate_grad_batches`` is said in its compute, bfloat16 being the only short format.
        recipe: which members learn at each step; the catalogue's default if None.
        optimizer: makes the optimizer of the parameters that it is given; AdamW as in :func:`pliant.train` if None.
        clip: the largest total norm of the gradients; None for no clipping.
        warmup: the share of the steps in which the learning rate rises.
        schedule: the factor of the learning rate after the warm-up; the recipe's own if None.

    Raises:
        MissingExtraError: Lightning is not installed.
        PliantError: the run's precision is float16.
    """

    def __init__(
        self,
        course: Course,
        recipe: Recipe | None = None,
        optimizer: Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer] | None = None,
        clip: float | None = 1.0,
        warmup: float = 0.05,
        schedule: Callable[[float], float] | None = None,
    ) -> None:
        super().__init__()
        if course.compute.precision == "float16":
            raise PliantError("under Lightning use Compute(precision='bfloat16'), or train with pliant.train")
        self.automatic_optimization = False
        self.model = course.family.model  # Lightning moves it, and keeps its weights
        self.course = course
        self.recipe = checked_recipe(recipe)
        self.progress = Progress(0, course.steps)
        """Where the training stands, with every member's loss."""
        self._make = optimizer or default_optimizer
        self._rates = (clip, warmup, schedule or self.recipe.rate)
        self._stepping: Stepping | None = None
        self._batches: list[Any] = []

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Run the largest member."""
        return self.model(*args, **kwargs)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Return the optimizer of the family's parameters."""
        return self._make(self.course.family.parameters())

    def on_train_start(self) -> None:
        """Prepare the family, once."""
        if str(self.trainer.precision) not in _PRECISIONS:
            raise PliantError(
                f"Trainer(precision={self.trainer.precision!r}) would not reach every member; leave it out and "
                "give the run's Course compute=Compute(precision='bfloat16')"
            )
        strategies = require("lightning.pytorch.strategies", "lightning")
        if not isinstance(self.trainer.strategy, (strategies.SingleDeviceStrategy, strategies.DDPStrategy)):
            raise PliantError(
                f"members share whole weights, which {type(self.trainer.strategy).__name__} would split or move; "
                "use one device, or Trainer(strategy='ddp')"
            )
        course = self.course.joined()
        course.processes.share(course.state())
        course.family.prepare()
        if self.progress.step == 0:
            self.recipe.prepare(course.family)
            course.processes.share(course.state())
        optimizer: Any = self.optimizers()
        self._stepping = Stepping(course, self.recipe, optimizer.optimizer, *self._rates, apply=optimizer.step)

    def training_step(self, batch: Any, batch_idx: int) -> None:
        """Let members learn from a batch ``(inputs, targets)``, or gather it for the step that it is a part of."""
        self._batches.append(batch)
        if len(self._batches) < self.course.compute.accumulate or self._stepping is None:
            return
        parts, self._batches = Parts(self._batches), []
        with self.course.processes.told():
            self.progress = self._stepping.step(parts, self.progress.step)
        self.log("loss", self.progress.loss, prog_bar=True, batch_size=1)
        self.trainer.should_stop = self.trainer.should_stop or self.progress.step >= self.course.steps

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add what the recipe remembers, and how many steps are done."""
        own = self.course.marks(self.recipe)
        checkpoint["pliant"] = {"step": self.progress.step, "held": self.course.held(), "run": own}

    def on_load_checkpoint(self, checkpoint: Mapping[str, Any]) -> None:
        """Go on from a checkpoint."""
        compare("this file", checkpoint["pliant"].get("run", {}), self.course.marks(self.recipe))
        self.course.take(checkpoint["pliant"]["held"])
        self.course.family.prepared = True  # the weights of the checkpoint are sorted already
        self.progress = Progress(int(checkpoint["pliant"]["step"]), self.course.steps)
