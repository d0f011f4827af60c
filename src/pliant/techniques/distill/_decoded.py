"""Imitation of a network that makes images or videos: its outputs, and features inside it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...checks import WrongShapeError
from ...family.imitation import Imitation, View
from ._features import Pairs, check_alike, fitted, fixed_draws, floats, observe, one_tensor, width_of


class Decoded(Imitation):
    """The mean absolute difference of outputs, and the squared one of features, through linear maps where needed."""

    def __init__(self, layers: Pairs, weight: float, ours: list[Tensor], theirs: list[Tensor]) -> None:
        super().__init__()
        self.layers, self.weight = layers, weight
        self.sites = tuple(dict.fromkeys(a for a, _ in layers))
        self.teacher_sites = tuple(dict.fromkeys(b for _, b in layers))
        with fixed_draws():
            maps = [
                nn.Identity() if width_of(a) == width_of(b) else nn.Linear(width_of(a), width_of(b)).to(a)
                for a, b in zip(ours, theirs, strict=True)
            ]
        self.maps = nn.ModuleList(maps)

    @staticmethod
    def start(
        layers: Pairs, weight: float, student: Any, teacher: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> Decoded:
        """Return the imitation of ``teacher``, or of the largest member where it is None.

        Raises:
            UnknownNameError: one of the networks has no such layer.
            WrongShapeError: two features, or the outputs, cannot be compared.
        """
        old = student if teacher is None else teacher
        ours = observe(student, [a for a, _ in layers], args, kwargs)
        theirs = observe(old, [b for _, b in layers], args, kwargs)
        for (a, b), left, right in zip(layers, ours, theirs, strict=True):
            check_alike(f"layers {a!r} and {b!r}", left, right)
        with torch.no_grad():
            shapes = [[tuple(v.shape) for v in floats(net(*args, **kwargs))] for net in (student, old)]
        if shapes[0] != shapes[1] or not shapes[0]:
            raise WrongShapeError(f"student and teacher give {shapes[0]} and {shapes[1]} of one input; they must agree")
        return Decoded(layers, weight, ours, theirs)

    def forward(self, student: View, teacher: View, targets: Any, temperature: float) -> Tensor:
        """Return the loss, one number; there is nothing to soften."""
        pairs = zip(floats(student.outputs), floats(teacher.outputs), strict=True)
        total = torch.stack([F.l1_loss(left, right) for left, right in pairs]).sum()
        for (a, b), map_ in zip(self.layers, self.maps, strict=True):
            if a in student.features and b in teacher.features:
                left, right = one_tensor(student.features[a], a), one_tensor(teacher.features[b], b)
                total = total + self.weight * F.mse_loss(*fitted(left, right, map_))
        return total
