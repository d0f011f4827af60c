"""Distillation of features: a small image encoder learns to give the very embeddings that a large one gives.

The student sees unlabelled (or synthetic) images and minimises the squared distance between its embedding and the
teacher's. As it ends in the teacher's space, what classified the teacher's embeddings classifies the student's: for
CLIP, the class vectors that the text encoder made, see :func:`class_vectors` and :func:`zero_shot_logits`. The paper's
claim: trained on synthetic images with this loss, encoders with up to 92% fewer parameters are on par with a ViT-B/32
teacher at zero-shot classification on four datasets, where students trained with contrastive losses pick up spurious
features of the synthetic images and fail.

This implementation differs in that inner layers may be matched as well as the outputs, through a learned linear map
where widths differ, which is dropped afterwards; maps of unequal sizes are averaged down to the smaller one. Within a
family without a teacher of its own, a smaller member's features are compared with the leading units of the largest
member's, whose leading units it shares.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...checks import WrongShapeError
from ...family.imitation import Imitation, View
from ...technique import Distiller, Paper
from ._features import Pairs, check_alike, fitted, fixed_draws, floats, nothing, observe, one_tensor, width_of


@dataclass(frozen=True)
class FeatureMatch(Distiller):
    """Match the student's outputs, and layers if any are named, to the teacher's by their squared distance.

    Attributes:
        layers: pairs of paths, a student's layer and the teacher's that it matches.
        outputs: whether the outputs, embeddings or logits, are matched too.
        weight: what each pair of layers weighs; the outputs weigh 1.
        normalise: bring every feature vector to length 1 before it is compared.
    """

    layers: Pairs = ()
    outputs: bool = True
    weight: float = 1.0
    normalise: bool = False

    paper: ClassVar[Paper | None] = Paper(
        "Popp, Metzen, Hein",
        2024,
        "Zero-Shot Distillation for Image Encoders: How to Make Effective Use of Synthetic Data",
        "2404.16637",
    )
    needs: ClassVar[frozenset[str]] = frozenset({"features"})
    gives: ClassVar[frozenset[str]] = frozenset({"distillation"})

    def __post_init__(self) -> None:
        """Check the fields."""
        if self.weight < 0 or not (self.outputs or self.layers):
            raise WrongShapeError(
                f"FeatureMatch needs weight >= 0, and outputs=True or layers to match; got {self.weight}, "
                f"{self.outputs} and {self.layers}"
            )

    def start(self, student: Any, teacher: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Imitation:
        """Return the linear maps between features of unequal width, and the loss.

        Raises:
            UnknownNameError: one of the networks has no such layer.
            WrongShapeError: two features, or the outputs, cannot be compared.
        """
        other = student if teacher is None else teacher
        ours = observe(student, [a for a, _ in self.layers], args, kwargs)
        theirs = observe(other, [b for _, b in self.layers], args, kwargs)
        for (a, b), left, right in zip(self.layers, ours, theirs, strict=True):
            check_alike(f"layers {a!r} and {b!r}", left, right)
        if self.outputs:
            with torch.no_grad():
                self._check_outputs(student(*args, **kwargs), other(*args, **kwargs))
        return _Matched(self, ours, theirs)

    def _check_outputs(self, student: Any, teacher: Any) -> None:
        left, right = floats(student), floats(teacher)
        if [v.shape for v in left] != [v.shape for v in right] or not left:
            raise WrongShapeError(
                f"the student gives {[tuple(v.shape) for v in left]}, the teacher {[tuple(v.shape) for v in right]}: "
                "end the student in a linear layer as wide as the teacher's embedding (it is part of what ships), or "
                "match layers alone with outputs=False"
            )


class _Matched(Imitation):
    """Squared distances of outputs and layers; a linear map per pair of unequal widths."""

    def __init__(self, settings: FeatureMatch, ours: Sequence[Tensor], theirs: Sequence[Tensor]) -> None:
        super().__init__()
        self.settings = settings
        self.sites = tuple(dict.fromkeys(a for a, _ in settings.layers))
        self.teacher_sites = tuple(dict.fromkeys(b for _, b in settings.layers))
        self.maps = nn.ModuleList()
        with fixed_draws():
            for left, right in zip(ours, theirs, strict=True):
                a, b = width_of(left), width_of(right)
                self.maps.append(nn.Identity() if a == b else nn.Linear(a, b).to(left))

    def forward(self, student: View, teacher: View, targets: Any, temperature: float) -> Tensor:
        total = nothing(student)
        if self.settings.outputs:
            for left, right in zip(floats(student.outputs), floats(teacher.outputs), strict=True):
                total = total + self._distance(left, right)
        for (a, b), map_ in zip(self.settings.layers, self.maps, strict=True):
            if a in student.features and b in teacher.features:
                left, right = one_tensor(student.features[a], a), one_tensor(teacher.features[b], b)
                total = total + self.settings.weight * self._distance(*fitted(left, right, map_))
        return total

    def _distance(self, left: Tensor, right: Tensor) -> Tensor:
        if self.settings.normalise and left.dim() > 1:
            left, right = F.normalize(left, dim=-1), F.normalize(right, dim=-1)
        return F.mse_loss(left, right)


def class_vectors(prompts: Sequence[Tensor]) -> Tensor:
    """Return one vector of length 1 per class, ``(classes, width)``: the mean of its prompts' embeddings.

    Args:
        prompts: per class, the teacher's text embeddings of its prompts, ``(number, width)``, or one of ``(width,)``.
            Each is brought to length 1 first, as CLIP does (Radford et al., 2021, arXiv 2103.00020).

    Raises:
        WrongShapeError: there is no class, or the widths differ.
    """
    rows = [rows if rows.dim() == 2 else rows[None] for rows in prompts]
    if not rows or any(row.dim() != 2 or row.shape[1:] != rows[0].shape[1:] or not len(row) for row in rows):
        raise WrongShapeError(
            "class vectors are made from embeddings (number, width) of the prompts of each class, all of one width; "
            f"got {[tuple(row.shape) for row in rows]}"
        )
    return F.normalize(torch.stack([F.normalize(row, dim=-1).mean(0) for row in rows]), dim=-1)


def zero_shot_logits(embeddings: Tensor, vectors: Tensor, scale: float = 100.0) -> Tensor:
    """Return the logits ``(B, classes)`` of images whose embeddings lie in the teacher's space.

    Args:
        embeddings: what the teacher, or a student of it, gives: ``(B, width)``.
        vectors: one per class, ``(classes, width)``, as :func:`class_vectors` gives.
        scale: multiplies the cosine; 100 in CLIP.

    Raises:
        WrongShapeError: the widths differ.
    """
    if embeddings.dim() != 2 or vectors.dim() != 2 or embeddings.shape[1] != vectors.shape[1]:
        raise WrongShapeError(
            f"embeddings (B, width) and class vectors (classes, width) share a width; got {tuple(embeddings.shape)} "
            f"and {tuple(vectors.shape)}"
        )
    return scale * F.normalize(embeddings, dim=-1) @ F.normalize(vectors, dim=-1).T
