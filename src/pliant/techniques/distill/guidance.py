"""Guidance: a guide network shows a target network, layer by layer, which examples should look alike inside it.

The target learns its task and, beside it, to align its layers with those of a frozen guide of another architecture, by
their centred kernel alignment: a distance that needs neither equal widths nor an equal depth. The guide may be trained
or not: an untrained one passes on the bias of its architecture alone. The paper's claim: networks held for untrainable
learn well when guided (fully connected ones stop overfitting on images, plain deep convolutional ones come near
residual ones), also where the guide leaves after the first steps.

This implementation differs in that the alignment is mixed with the task's loss by the recipe's ``share``: 0.5 is the
paper's plain sum, halved. When the guide has left (``until``), the task's loss keeps the share that it had. The
alignment ignores scale, so it does not help where the signal itself dies out with depth (measured on digits: fourteen
linear layers with torch's own initialisation and no normalisation learn no better with a guide); where the layers keep
their scale and only the examples become ever more alike, it does (twenty-four normalised layers: half of the
error gone, with a trained guide or an untrained one).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from ...checks import WrongShapeError
from ...family.imitation import Imitation, View
from ...technique import Distiller, Paper
from ._cka import cka
from ._features import Pairs, nothing, observe, one_tensor, spread


@dataclass(frozen=True)
class Guidance(Distiller):
    """Align the student's layers with those of a guide, by centred kernel alignment.

    Attributes:
        layers: pairs of paths, a student's layer and the guide's layer that it follows; empty for up to ``count``
            pairs, spread over the depth of both.
        count: how many pairs there are, where none are named.
        until: the share of the run's steps after which the guide leaves; 1 for never.
    """

    layers: Pairs = ()
    count: int = 4
    until: float = 1.0

    paper: ClassVar[Paper | None] = Paper(
        "Subramaniam, Mayo, Conwell, Poggio, Katz, Cheung, Barbu",
        2024,
        "Training the Untrainable: Introducing Inductive Bias via Representational Alignment",
        "2410.20035",
    )
    needs: ClassVar[frozenset[str]] = frozenset({"features"})
    gives: ClassVar[frozenset[str]] = frozenset({"distillation"})

    def __post_init__(self) -> None:
        """Check the fields."""
        if self.count < 1 or not 0 < self.until <= 1:
            raise WrongShapeError(
                f"Guidance needs count >= 1 and until above 0 and up to 1; got {self.count} and {self.until}"
            )

    def start(self, student: Any, teacher: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Imitation:
        """Return the alignment of the layers, which has no parameters.

        Raises:
            UnknownNameError: one of the networks has no such layer.
            WrongShapeError: a layer gives no features.
        """
        guide = student if teacher is None else teacher
        pairs = self.layers or paired(student, guide, self.count)
        for net, sites in ((student, [a for a, _ in pairs]), (guide, [b for _, b in pairs])):
            observe(net, sites, args, kwargs)
        return _Aligned(pairs, self.until)


def paired(student: Any, guide: Any, count: int) -> Pairs:
    """Return pairs of layers of two networks, spread over the depth of both."""
    count = min(len(spread(student, count)), len(spread(guide, count)))
    return tuple(zip(spread(student, count), spread(guide, count), strict=True))


class _Aligned(Imitation):
    """One minus the alignment, summed over pairs of layers."""

    def __init__(self, pairs: Pairs, until: float) -> None:
        super().__init__()
        self.pairs, self.until = pairs, until
        self.sites = tuple(dict.fromkeys(a for a, _ in pairs))
        self.teacher_sites = tuple(dict.fromkeys(b for _, b in pairs))

    def forward(self, student: View, teacher: View, targets: Any, temperature: float) -> Tensor:
        total = nothing(student)
        if self.done >= self.until:
            return total
        for ours, theirs in self.pairs:
            if ours in student.features and theirs in teacher.features:
                left = one_tensor(student.features[ours], ours)
                total = total + 1 - cka(left, one_tensor(teacher.features[theirs], theirs))
        return total
