"""How training steps are computed: number formats, batches per step, and memory for time."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from ..checks import NoEffectWarning, PliantError, WrongShapeError, unknown


@dataclass(frozen=True)
class Compute:
    """How the steps of a training run are computed; what is learnt is meant to be the same.

    Attributes:
        precision: in which format matrix products run: ``"float32"``, ``"bfloat16"`` or ``"float16"``
            (:func:`torch.autocast`). Weights, their gradients, outputs, features and losses stay in the weights' own
            format. With float16 the loss is scaled so that small gradients survive, and a step whose gradients
            overflow is left out (Micikevicius et al., 2018, Mixed Precision Training, arXiv 1710.03740).
        accumulate: how many batches make one training step. Every member of a step learns from each of them, with the
            mean of their losses, as if they were one batch; normalisation by batch statistics sees one at a time.
        checkpointing: keep only the inputs of a member's blocks for the backward pass, and compute what is inside them
            again (Chen et al., 2016, Training Deep Nets with Sublinear Memory Cost, arXiv 1604.06174): a second
            forward pass for a fraction of the memory, and the same gradients.
        processes: train together with the other processes where there are some; false trains alone even there.

    Raises:
        UnknownNameError: another precision.
        WrongShapeError: ``accumulate`` is not a whole number of at least 1.
    """

    precision: str = "float32"
    accumulate: int = 1
    checkpointing: bool = False
    processes: bool = True

    FORMATS: ClassVar[dict[str, torch.dtype]] = {
        "float32": torch.float32,
        "bfloat16": torch.bfloat16,
        "float16": torch.float16,
    }

    def __post_init__(self) -> None:
        """Check the fields."""
        if self.precision not in self.FORMATS:
            raise unknown("precision", str(self.precision), self.FORMATS)
        if not isinstance(self.accumulate, int) or self.accumulate < 1:
            raise WrongShapeError(f"accumulate is a whole number of batches, 1 or more; got {self.accumulate!r}")

    def check_weights(self, formats: Iterable[torch.dtype]) -> None:
        """See that weights of these formats can be trained like this.

        Warns (:class:`~pliant.checks.NoEffectWarning`) where they are of a format that matrix products keep.

        Raises:
            PliantError: the weights themselves are in another short format.
        """
        kinds = {kind for kind in formats if kind.is_floating_point}
        if self.precision == "float32" or not kinds:
            return
        short = {torch.float16, torch.bfloat16} & kinds
        if short - {self.FORMATS[self.precision]} or (short and self.precision == "float16"):
            raise PliantError(
                f"Compute(precision={self.precision!r}) is for weights in float32, and some are in "
                f"{', '.join(sorted(map(str, short)))}; make the family of model.float(), matrix products run in "
                f"{self.precision} all the same"
            )
        if kinds == {torch.float64}:
            warnings.warn(
                f"Compute(precision={self.precision!r}) does nothing for weights in float64; make the family of "
                "model.float()",
                NoEffectWarning,
                stacklevel=4,
            )

    def autocast(self, device: torch.device) -> AbstractContextManager[Any]:
        """Return the context in which forward passes and losses run on ``device``."""
        if self.precision == "float32":
            return nullcontext()
        return torch.autocast(device.type, dtype=self.FORMATS[self.precision])

    def scaler(self, device: torch.device) -> torch.amp.GradScaler | None:
        """Return what scales the loss and leaves out steps that overflow; ``None`` where no gradient is in float16.

        Raises:
            PliantError: this installation of torch has no float16 arithmetic on ``device``.
        """
        if self.precision != "float16":
            return None
        try:
            one = torch.ones(2, 2, device=device)
            with self.autocast(device):
                (one @ one).sum()
            return torch.amp.GradScaler(device.type)
        except (RuntimeError, TypeError, ValueError) as error:
            raise PliantError(
                f"float16 training does not run on {device.type} here ({error}); use Compute(precision='bfloat16')"
            ) from error


class Parts(tuple[Any, ...]):
    """The batches that make up one training step."""

    __slots__ = ()


def grouped(batches: Iterator[Any], size: int) -> Iterator[Any]:
    """Yield each batch where ``size`` is 1, else every ``size`` of them as :class:`Parts`, without a rest."""
    if size == 1:
        yield from batches
        return
    group: list[Any] = []
    for batch in batches:
        group.append(batch)
        if len(group) == size:
            yield Parts(group)
            group = []
