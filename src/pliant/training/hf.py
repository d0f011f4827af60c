"""A family under Hugging Face's ``Trainer``: it brings arguments, loaders and checkpoints, a recipe does the step."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..checks import PliantError, WrongShapeError, require
from ..family.statistics import call
from ..technique import Recipe
from .arguments import checked_recipe
from .checkpoint import compare, load_held, save_held
from .compute import Parts
from .course import Course
from .stepping import Progress, Stepping

if TYPE_CHECKING:
    Trainer = Any
    TrainerCallback = Any
else:
    require("accelerate", "hf")  # Trainer itself would complain later, and without our install line
    _transformers = require("transformers", "hf")
    Trainer, TrainerCallback = _transformers.Trainer, _transformers.TrainerCallback

Split = Callable[[Mapping[str, Any]], tuple[Any, Any]]
_REFUSED = ("fp16", "bf16", "torch_compile", "gradient_checkpointing", "deepspeed", "fsdp")
_FILE = "pliant.safetensors"


def by_labels(inputs: Mapping[str, Any]) -> tuple[dict[str, Any], Any]:
    """Split what a collator gives into keyword arguments of the network and its ``labels``.

    Raises:
        WrongShapeError: there are no labels.
    """
    if "labels" not in inputs:
        raise WrongShapeError(f"a batch needs 'labels' beside {sorted(inputs)}; else give FamilyTrainer a split=")
    return {name: value for name, value in inputs.items() if name != "labels"}, inputs["labels"]


class FamilyCallback(TrainerCallback):
    """Prepares a family before its training, and keeps what the recipe remembers beside each checkpoint.

    Args:
        course: the run.
        recipe: which members learn.
    """

    def __init__(self, course: Course, recipe: Recipe) -> None:
        self.course, self.recipe = course, recipe

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Prepare the family, or go on where the checkpoint was saved."""
        course = self.course.joined()
        course.steps = state.max_steps
        new = state.global_step == 0
        if not new:
            stored = load_held(_place(args, state))
            compare(args.output_dir, stored.get("run", {}), course.marks(self.recipe))
            course.take(stored)
            course.family.prepared = True  # the weights of the checkpoint are sorted already
        course.processes.share(course.state())
        course.family.prepare()
        if new:
            self.recipe.prepare(course.family)
            course.processes.share(course.state())

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Write what the recipe remembers into the checkpoint's folder."""
        if state.is_world_process_zero:
            save_held(_place(args, state), self.course.held() | {"run": self.course.marks(self.recipe)})


def _place(args: Any, state: Any) -> Path:
    return Path(args.output_dir) / f"checkpoint-{state.global_step}" / _FILE


class FamilyTrainer(Trainer):
    """Trains a family as :func:`pliant.train` would, with the rates, clipping and data of ``TrainingArguments``.

    The recipe makes every optimizer step itself, so ``grad_norm`` in the Trainer's log is that of cleared gradients;
    :attr:`progress` has the right one. Where several processes train, gradients are averaged over them.

    Args:
        course: the run: family, loss, seed, teacher and compute; its ``steps`` become the Trainer's.
        recipe: which members learn at each step; the catalogue's default if None.
        split: makes ``(inputs, targets)`` of what the collator gives; by the key ``labels`` if None.
        settings: whatever else ``transformers.Trainer`` takes, such as ``args`` and ``train_dataset``.

    Raises:
        MissingExtraError: transformers or accelerate is not installed.
        PliantError: the arguments ask for something that would reach the largest member alone.
    """

    def __init__(
        self, course: Course, recipe: Recipe | None = None, split: Split | None = None, **settings: Any
    ) -> None:
        super().__init__(model=course.family.model, **settings)
        self.course, self._split = course, split or by_labels
        self.recipe = checked_recipe(recipe)
        self.progress = Progress(0, course.steps)
        """Where the training stands, with every member's loss."""
        self._batches: list[Any] = []
        self.label_names: list[str] = getattr(self, "label_names", None) or ["labels"]
        wrong = [name for name in _REFUSED if getattr(self.args, name, None)]
        if wrong or course.compute.accumulate != 1 or course.compute.precision == "float16":
            raise PliantError(
                f"FamilyTrainer takes the number format (float32 or bfloat16) and checkpointing from the run's compute "
                f"and gradient_accumulation_steps from its arguments; got {course.compute} and arguments with "
                f"{wrong or 'nothing in the way'}"
            )
        self.add_callback(FamilyCallback(course, self.recipe))

    def compute_loss(
        self, model: Any, inputs: Mapping[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """Return the run's loss of a network, for the Trainer's evaluation."""
        given, targets = self._split(inputs)
        outputs = call(model, given)
        loss = self.course.loss(outputs, targets)
        return (loss, {"logits": outputs} if isinstance(outputs, Tensor) else outputs) if return_outputs else loss

    def training_step(self, model: Any, inputs: Mapping[str, Any], num_items_in_batch: Any = None) -> Tensor:
        """Let members learn from a batch, or gather it for the step that it is a part of; returns the first loss."""
        self._batches.append(self._split(self._prepare_inputs(inputs)))
        nothing = torch.zeros((), device=self.args.device)
        if len(self._batches) < self.current_gradient_accumulation_steps:
            return nothing
        parts, self._batches = Parts(self._batches), []
        stepping = Stepping(self.course, self.recipe, self.optimizer, self.args.max_grad_norm or None)
        with self.course.processes.told():
            self.progress = stepping.step(parts, self.state.global_step)
        self.optimizer.zero_grad(set_to_none=True)  # the Trainer's own step has nothing left to do
        return nothing + self.progress.loss
