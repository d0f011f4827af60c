"""OFA-KD: a student learns from a teacher of any architecture, in the one space that both share, the logits.

Features of different architectures are far apart, so comparing them layer by layer helps little. Instead, small exit
branches map the student's intermediate features to logits, and every branch, as well as the student's own output,
learns from the teacher's final logits. The loss raises the target class's part to a power of ``1 + p``, with the
teacher's probability p of that class: a teacher that is unsure of the target counts less, one that is sure counts more.
The branches are dropped afterwards. The paper's claim: students gain up to 8.0 points on CIFAR-100 and 0.7 on
ImageNet-1K, over pairs of convolutional networks, transformers and MLPs. :func:`alignment` is its diagnostic: the
centred kernel alignment of every layer of one network with every layer of another.

This implementation differs in the branches, which are made for any network: from maps, as many depthwise-separable
convolutions of stride 2 as there are stages left (the paper's), but with a group norm, which keeps no statistics; from
tokens, as many transformer blocks (the paper's), then the mean over all tokens instead of the class token; from plain
vectors, as many linear layers. The loss is the paper's equation, which has the label's loss inside: recipes should let
it be all of the loss (``share=1``). A smaller member of a family has the branches of the blocks that it has; channels
that it lacks count as zeros.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from ...checks import WrongShapeError
from ...family.imitation import Imitation, View
from ...technique import Distiller, Paper
from ._cka import alignment as alignment  # noqa: PLC0414  (the diagnostic is part of what this file offers)
from ._features import fixed_draws, is_map, observe, one_tensor, spread, widened, width_of


def ofa_loss(student: Tensor, teacher: Tensor, targets: Tensor, gamma: float, temperature: float = 1.0) -> Tensor:
    """Return the one-for-all loss, the mean over the batch.

    ``-(1 + p_t)^gamma log s_t - sum over other classes c of p_c log s_c``, with the teacher's probabilities p, the
    student's s, and the target class t. With ``gamma=1`` it is the cross-entropy of the label plus that of the teacher.

    Args:
        student: logits ``(B, classes)``.
        teacher: logits ``(B, classes)``.
        targets: classes ``(B,)``, or their probabilities ``(B, classes)``, of which the largest counts.
        gamma: how much more a sure teacher says about the target.
        temperature: divides the logits of both.

    Raises:
        WrongShapeError: the shapes do not fit each other.
    """
    if student.dim() != 2 or student.shape != teacher.shape or targets.shape[:1] != student.shape[:1]:
        raise WrongShapeError(
            "the one-for-all loss needs logits (B, classes) of student and teacher and B targets; got shapes "
            f"{tuple(student.shape)}, {tuple(teacher.shape)} and {tuple(targets.shape)}"
        )
    chosen = targets.argmax(-1) if targets.dim() == 2 else targets
    goal = F.softmax(teacher / temperature, -1)
    at = goal.gather(1, chosen[:, None])
    goal = goal.scatter(1, chosen[:, None], (1 + at) ** gamma)
    return -(goal * F.log_softmax(student / temperature, -1)).sum(-1).mean()


@dataclass(frozen=True)
class OfaKd(Distiller):
    """Let exit branches of the student, and its output, learn from the logits of a teacher of any architecture.

    Attributes:
        sites: paths of the student's layers that get a branch, first to last; empty for four, spread over its depth.
            They give maps with the channels second, tokens ``(B, N, C)`` or vectors ``(B, C)``.
        gamma: how much more a teacher that is sure of the target says about it; 1 is ordinary distillation.
        weight: what the branches' losses weigh, each; the loss of the student's own output weighs 1.
    """

    sites: tuple[str, ...] = ()
    gamma: float = 1.5
    weight: float = 1.0

    paper: ClassVar[Paper | None] = Paper(
        "Hao, Guo, Han, Tang, Hu, Wang, Xu",
        2023,
        "One-for-All: Bridge the Gap Between Heterogeneous Architectures in Knowledge Distillation",
        "2310.19444",
    )
    needs: ClassVar[frozenset[str]] = frozenset({"logits"})
    gives: ClassVar[frozenset[str]] = frozenset({"distillation"})

    def __post_init__(self) -> None:
        """Check the fields."""
        if self.gamma < 0 or self.weight < 0:
            raise WrongShapeError(f"OfaKd needs gamma >= 0 and weight >= 0; got {self.gamma} and {self.weight}")

    def start(self, student: Any, teacher: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Imitation:
        """Return the branches and their loss.

        Raises:
            UnknownNameError: the student has no such layer.
            WrongShapeError: the student's output is not logits ``(B, classes)``, or a layer gives no features.
        """
        sites = self.sites or spread(student, 4)
        with torch.no_grad():
            logits = _logits(student(*args, **kwargs))
        return _Branches(self, sites, observe(student, sites, args, kwargs), logits.shape[1])


class _Branches(Imitation):
    """One branch per site."""

    def __init__(self, settings: OfaKd, sites: tuple[str, ...], examples: list[Tensor], classes: int) -> None:
        super().__init__()
        self.sites, self.settings = sites, settings
        self.widths = {site: width_of(example) for site, example in zip(sites, examples, strict=True)}
        last = self.widths[sites[-1]]
        with fixed_draws():
            made = [
                branch(example, max(last, self.widths[site]), classes, len(sites) - 1 - place)
                for place, (site, example) in enumerate(zip(sites, examples, strict=True))
            ]
        self.branches = nn.ModuleList(made).to(examples[0])

    def forward(self, student: View, teacher: View, targets: Any, temperature: float) -> Tensor:
        goal, gamma = _logits(teacher.outputs), self.settings.gamma
        total = ofa_loss(_logits(student.outputs), goal, targets, gamma, temperature)
        for site, net in zip(self.sites, self.branches, strict=True):
            if site in student.features:
                feature = widened(one_tensor(student.features[site], site), self.widths[site])
                total = total + self.settings.weight * ofa_loss(net(feature), goal, targets, gamma, temperature)
        return total


def _logits(outputs: Any) -> Tensor:
    found = [v for v in pytree.tree_leaves(outputs) if isinstance(v, Tensor) and v.is_floating_point()]
    if len(found) != 1 or found[0].dim() != 2:
        raise WrongShapeError(
            "OfaKd compares classifiers, whose one output is logits (B, classes); got "
            f"{[tuple(v.shape) for v in found]}"
        )
    return found[0]


def branch(example: Tensor, width: int, classes: int, left: int) -> nn.Module:
    """Return an exit branch from features like ``example`` to logits ``(B, classes)``.

    Args:
        example: a map ``(B, C, *sizes)``, tokens ``(B, N, C)`` or vectors ``(B, C)``.
        width: how wide the branch is before its last layer.
        classes: how many logits there are.
        left: how many stages the student has after this one.
    """
    start = width_of(example)
    if is_map(example):
        return nn.Sequential(*_convolutions(example.dim() - 2, start, width, left), _Mean(), nn.Linear(width, classes))
    if example.dim() == 3:
        heads = next(h for h in (4, 2, 1) if start % h == 0)
        blocks = [
            nn.TransformerEncoderLayer(start, heads, 4 * start, 0.0, "gelu", batch_first=True, norm_first=True)
            for _ in range(max(1, left))
        ]
        return nn.Sequential(*blocks, nn.LayerNorm(start), _TokenMean(), nn.Linear(start, classes))
    widths = [start, *(width for _ in range(left))]
    layers = [layer for a, b in pairwise(widths) for layer in (nn.Linear(a, b), nn.LayerNorm(b), nn.GELU())]
    return nn.Sequential(*layers, nn.Linear(widths[-1], classes))


def _convolutions(dims: int, start: int, width: int, left: int) -> list[nn.Module]:
    conv: Any = {2: nn.Conv2d, 3: nn.Conv3d}[dims]
    if left == 0:
        return [conv(start, width, 1)]
    layers: list[nn.Module] = []
    for place in range(left):
        end = width if place == left - 1 else min(2 * start, width)
        layers += [
            conv(start, start, 3, 2, 1, groups=start),
            conv(start, end, 1, bias=False),
            nn.GroupNorm(1, end),
            nn.GELU(),
        ]
        start = end
    return layers


class _Mean(nn.Module):
    """``(B, C, *sizes) -> (B, C)``."""

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(2).mean(2)


class _TokenMean(nn.Module):
    """``(B, N, C) -> (B, C)``."""

    def forward(self, x: Tensor) -> Tensor:
        return x.mean(1)
