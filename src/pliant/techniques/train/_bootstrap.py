"""Heads and losses of self-supervised training by a teacher that follows its student (BYOL).

A projector maps features to a small space, in the student and in the teacher; a predictor, in the student alone, maps
its projection to the teacher's (Grill and others, 2020, Bootstrap Your Own Latent, arXiv 2006.07733).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from ...checks import WrongShapeError
from ...family.statistics import keeping_modes

if TYPE_CHECKING:
    from ...family.family import Family

Tensors = Mapping[str, Tensor]
_PROJECTOR, _PREDICTOR = ("project1", "project2"), ("predict1", "predict2")


def new_heads(features: int, width: int, draw: torch.Generator, like: Tensor) -> dict[str, Tensor]:
    """Return the weights of a projector and a predictor, each with one hidden layer of twice the ``width``."""
    shapes = {"project1": (2 * width, features), "project2": (width, 2 * width),
              "predict1": (2 * width, width), "predict2": (width, 2 * width)}  # fmt: skip
    made = {name: torch.randn(shape, generator=draw) * math.sqrt(2 / shape[1]) for name, shape in shapes.items()}
    return {name: weight.to(like.device, like.dtype) for name, weight in made.items()}


def projected(heads: Tensors, feature: Tensor) -> Tensor:
    """Return the projection (B, width) of features (B, C); channels that a smaller member lacks count as zeros.

    Raises:
        WrongShapeError: the batch has one example, which cannot be normalised by its own statistics.
    """
    missing = heads["project1"].shape[1] - feature.shape[1]
    return _two_layers(heads, _PROJECTOR, F.pad(feature, (0, missing)) if missing > 0 else feature)


def predicted(heads: Tensors, feature: Tensor) -> Tensor:
    """Return the student's guess (B, width) of the teacher's projection."""
    return _two_layers(heads, _PREDICTOR, projected(heads, feature))


def _two_layers(heads: Tensors, names: tuple[str, str], x: Tensor) -> Tensor:
    if len(x) < 2:
        raise WrongShapeError(
            f"blocks learn from what examples of a batch have apart, and this batch has {len(x)}; give larger batches"
        )
    hidden = F.batch_norm(F.linear(x, heads[names[0]].to(x)), None, None, training=True)
    return F.linear(F.relu(hidden), heads[names[1]].to(x)).float()


def apart(guess: Tensor, goal: Tensor) -> Tensor:
    """Return the mean squared distance, from 0 to 4, of vectors (B, width) that are brought to length 1 first."""
    return (2 - 2 * F.cosine_similarity(guess.float(), goal.float(), dim=-1)).mean()


def follow(teacher: Mapping[str, Tensor], student: Mapping[str, Tensor], momentum: float) -> None:
    """Move the teacher's tensors towards the student's, in place."""
    with torch.no_grad():
        for name, weight in teacher.items():
            weight.mul_(momentum).add_(student[name].detach(), alpha=1 - momentum)


def weights(family: Family) -> dict[str, nn.Parameter]:
    """Return what of a family learns, by name."""
    own = {name: p for name, p in family.model.named_parameters() if p.requires_grad}
    return own | {f"extra {name}": p for name, p in family.extra.items() if p.requires_grad}


@contextmanager
def in_place_of(family: Family, teacher: Tensors) -> Iterator[None]:
    """Let members run with the teacher's weights."""
    own = weights(family)
    before = {name: parameter.detach().clone() for name, parameter in own.items()}
    with torch.no_grad():
        _take(own, teacher)
        try:
            yield
        finally:
            _take(own, before)


def _take(own: Mapping[str, nn.Parameter], values: Tensors) -> None:
    for name, parameter in own.items():
        parameter.copy_(values[name])
    torch.clear_autocast_cache()  # it may hold the weights as they were, in another format


@contextmanager
def unmoved(net: nn.Module) -> Iterator[None]:
    """Normalise by the batch without moving running statistics, and leave out dropout; nothing is learnt."""
    buffers = [(buffer, buffer.clone()) for buffer in net.buffers()]
    with keeping_modes(net), torch.no_grad():
        for module in net.modules():
            module.training = isinstance(module, nn.modules.batchnorm._NormBase)
        try:
            yield
        finally:
            for buffer, before in buffers:
                buffer.copy_(before)


View = Callable[[Any], Any]


def noisy(strength: float) -> View:
    """Return a function that gives another view of a batch's inputs.

    Numbers get Gaussian noise of ``strength`` times their spread in the batch. Of integers, taken for tokens, that
    share is replaced by others of the batch, drawn evenly. All else is left as it is.
    """

    def leaf(value: Any) -> Any:
        if not isinstance(value, Tensor) or value.dtype == torch.bool or value.is_complex():
            return value
        if value.is_floating_point():
            return value + strength * value.std(correction=0) * torch.randn_like(value)
        other = value.flatten()[torch.randint(value.numel(), value.shape, device=value.device)]
        return torch.where(torch.rand(value.shape, device=value.device) < strength, other, value)

    return lambda inputs: pytree.tree_map(leaf, inputs)
