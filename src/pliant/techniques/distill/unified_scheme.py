"""USI: one fixed way to train any backbone, with a strong teacher, and nothing tuned to the backbone.

Every image is mixed with another one (mixup or cutmix), and the student learns from the mixed labels and, with five
times the weight, from what the teacher says of the very same mixed image, at temperature 1. AdamW with one learning
rate and one weight decay, a short warm-up and a cosine, no clipping, and a moving average of the weights is what
ships. The paper's claim: unchanged, this trained convolutional networks, mobile ones, transformers and MLPs on
ImageNet better than the scheme made for each, so that backbones can be compared fairly by accuracy and speed.

This implementation differs in its form: it is a recipe with the settings that go with it, for a family without choices
(of one with choices, only the largest member learns)::

    scheme = pliant.UnifiedScheme()
    settings = scheme.settings(family, batches, steps=2000)
    pliant.train(family, loss=cross_entropy, teacher=teacher, **settings)
    with settings["optimizer"].averaged():
        net = family.extract(family.space.largest())

The horizon of the moving average is a share of the run: the paper's decay of 0.99996 over its 300 epochs is one
fifteenth of them. Random crops, flips and RandAugment depend on the data and are left to what gives the batches.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils import _pytree as pytree

from ...checks import PliantError, WrongShapeError
from ...family.optimizers import can_fuse
from ...space.front import non_dominated
from ...technique import Paper, Recipe, Turn

if TYPE_CHECKING:
    from ...family.family import Family

Batches = Iterable[Any] | Callable[[int], Iterator[Any]]


@dataclass(frozen=True)
class UnifiedScheme(Recipe):
    """Train any backbone by one fixed recipe: a teacher's soft labels, mixed images, a moving average of the weights.

    Attributes:
        alpha: what the distillation loss weighs; the label's loss weighs 1.
        lr: the largest learning rate of AdamW.
        weight_decay: its weight decay.
        mixup: the shape of the Beta distribution of shares for blending two images; 0 for none.
        cutmix: that for pasting a box of another image; 0 for none. With both, each batch gets one at random.
        averaging: the horizon of the moving average of the weights, as a share of the run's steps.
        warmup: the share of the steps in which the learning rate rises.
    """

    alpha: float = 5.0
    lr: float = 2e-3
    weight_decay: float = 2e-2
    mixup: float = 0.8
    cutmix: float = 1.0
    averaging: float = 1 / 15
    warmup: float = 5 / 300

    paper: ClassVar[Paper | None] = Paper(
        "Ridnik, Lawen, Ben-Baruch, Noy",
        2022,
        "Solving ImageNet: a Unified Scheme for Training any Backbone to Top Results",
        "2204.03475",
    )
    needs: ClassVar[frozenset[str]] = frozenset({"logits", "teacher"})
    gives: ClassVar[frozenset[str]] = frozenset({"distillation"})

    def __post_init__(self) -> None:
        """Check the fields."""
        if min(self.alpha, self.mixup, self.cutmix, self.weight_decay) < 0 or self.lr <= 0 or not 0 <= self.warmup <= 1:
            raise WrongShapeError(f"UnifiedScheme needs lr > 0, warmup from 0 to 1, and no negative field; got {self}")
        if not 0 < self.averaging <= 1:
            raise WrongShapeError(f"UnifiedScheme.averaging is a share of the steps, above 0; got {self.averaging}")

    def step(self, turn: Turn) -> None:
        """Let the network learn from the labels and the teacher.

        Raises:
            PliantError: the run has no teacher.
        """
        teacher = turn.taught()
        if teacher is None:
            raise PliantError(
                "UnifiedScheme learns from a strong teacher; give one: pliant.train(..., teacher=network)"
            )
        whole = 1 + self.alpha
        turn.learn(turn.space.largest(), teacher=teacher, share=self.alpha / whole, weight=whole)

    def settings(self, family: Family, batches: Batches, steps: int) -> dict[str, Any]:
        """Return the arguments of :func:`pliant.train` that make up the scheme: all but the loss and the teacher.

        Args:
            family: the student, whose one output is logits ``(B, classes)``.
            batches: pairs of images and classes ``(B,)``, as :func:`pliant.train` takes them.
            steps: how many steps the run has.

        Raises:
            WrongShapeError: the network is no classifier.
        """
        return {
            "batches": self.mixed(batches, _classes(family)),
            "steps": steps,
            "recipe": self,
            "optimizer": self.optimizer(family, steps),
            "warmup": self.warmup,
            "clip": None,
        }

    def optimizer(self, family: Family, steps: int) -> AveragingAdamW:
        """Return the optimizer, which keeps the moving average of the weights beside them."""
        decay = max(0.0, 1 - 1 / max(1.0, self.averaging * steps))
        return AveragingAdamW(family.parameters(), self.lr, self.weight_decay, decay)

    def mixed(self, batches: Batches, classes: int) -> Batches:
        """Return the batches with images mixed in pairs, and the classes' probabilities ``(B, classes)`` as targets.

        The k-th batch is mixed in the same way each time, so a run that goes on sees what it would have seen.

        Raises:
            WrongShapeError: (while they are read) a batch is not images, or vectors, of floating point and classes.
        """
        if not self.mixup and not self.cutmix:
            return batches
        if not callable(batches):
            return (self._mix(batch, step, classes) for step, batch in enumerate(batches))

        def resumed(start: int) -> Iterator[Any]:
            for step, batch in enumerate(batches(start), start):
                yield self._mix(batch, step, classes)

        return resumed

    def _mix(self, batch: Any, step: int, classes: int) -> tuple[Tensor, Tensor]:
        import numpy as np

        x, y = _checked(batch)
        draw = np.random.default_rng(step)
        cut = self.cutmix > 0 and x.dim() >= 4 and (not self.mixup or draw.random() < 0.5)
        shape = self.cutmix if cut or not self.mixup else self.mixup
        share, other = float(draw.beta(shape, shape)), x.flip(0)
        if cut:
            x = x.clone()
            box = [_side(size, share, float(draw.random())) for size in x.shape[-2:]]
            x[..., box[0], box[1]] = other[..., box[0], box[1]]
            share = 1 - (box[0].stop - box[0].start) * (box[1].stop - box[1].start) / (x.shape[-2] * x.shape[-1])
        else:
            x = share * x + (1 - share) * other
        labels = F.one_hot(y, classes).to(x.dtype)
        return x, share * labels + (1 - share) * labels.flip(0)


def pareto(backbones: Mapping[str, tuple[float, float]]) -> list[str]:
    """Return the names of the backbones that no other one beats in both numbers, fastest first.

    Args:
        backbones: name to error and seconds, both measured for networks that were trained alike.
    """
    import numpy as np

    names = sorted(backbones, key=lambda name: (backbones[name][1], backbones[name][0]))
    kept = non_dominated(np.array([backbones[name] for name in names], dtype=float).reshape(-1, 2))
    return [name for name, keep in zip(names, kept, strict=True) if keep]


def _checked(batch: Any) -> tuple[Tensor, Tensor]:
    x, y = batch if isinstance(batch, (tuple, list)) and len(batch) == 2 else (batch, None)
    if not (isinstance(x, Tensor) and x.is_floating_point() and isinstance(y, Tensor) and y.dim() == 1):
        raise WrongShapeError(
            "UnifiedScheme mixes batches of images (B, C, H, W), or vectors, of floating point and classes (B,); got "
            f"{[(v.dtype, tuple(v.shape)) if isinstance(v, Tensor) else type(v).__name__ for v in (x, y)]}; turn "
            "mixing off with mixup=0, cutmix=0"
        )
    return x, y


def _side(size: int, share: float, place: float) -> slice:
    """Return one side of a box that covers ``1 - share`` of the image, cut off at its edge."""
    middle, half = int(place * size), int(size * (1 - share) ** 0.5) // 2
    return slice(max(0, middle - half), min(size, middle + half))


def _classes(family: Family) -> int:
    args, kwargs = family.example()
    training = family.model.training
    with torch.no_grad():
        outputs = family.model.eval()(*args, **kwargs)
    family.model.train(training)
    found = [v for v in pytree.tree_leaves(outputs) if isinstance(v, Tensor) and v.is_floating_point()]
    if len(found) != 1 or found[0].dim() != 2:
        raise WrongShapeError(
            "UnifiedScheme trains classifiers, whose one output is logits (B, classes); this network gives "
            f"{[tuple(v.shape) for v in found]}"
        )
    return int(found[0].shape[1])


class AveragingAdamW(torch.optim.AdamW):
    """AdamW that keeps an exponential moving average of every weight in its state, so that checkpoints hold it too.

    Args:
        params: the weights, or groups of them; steps are fused where torch has that for them.
        lr: the learning rate.
        weight_decay: the weight decay.
        decay: what is left of the average after a step, from 0 (the weights themselves) to below 1.
    """

    def __init__(self, params: Any, lr: float = 1e-3, weight_decay: float = 1e-2, decay: float = 0.999) -> None:
        if not 0 <= decay < 1:
            raise WrongShapeError(f"the decay of a moving average is from 0 to below 1; got {decay}")
        super().__init__(params, lr=lr, weight_decay=weight_decay)
        for group in self.param_groups:
            group["fused"] = can_fuse(group["params"]) or None
        self.decay = decay
        self.register_step_post_hook(self._move)

    def _move(self, optimizer: Any, args: Any, kwargs: Any) -> None:
        """Move every average towards its weight."""
        with torch.no_grad():
            for parameter, state in self.state.items():
                if "average" not in state:
                    state["average"] = parameter.detach().clone()
            if self.state:
                averages = [state["average"] for state in self.state.values()]
                torch._foreach_lerp_(averages, list(self.state), 1 - self.decay)

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Put the averages in place of the weights, which come back afterwards."""
        held = [(p, p.detach().clone(), state["average"]) for p, state in self.state.items() if "average" in state]
        try:
            with torch.no_grad():
                for parameter, _, average in held:
                    parameter.copy_(average)
            yield
        finally:
            with torch.no_grad():
                for parameter, weight, _ in held:
                    parameter.copy_(weight)
