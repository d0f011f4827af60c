"""Several copies of all weights in one family, and a choice of the copy that a member is cut from.

The smallest step from one set of weights for all members to a set for each: members of one copy share, those of
different copies do not. Which member belongs to which copy is for a recipe to say; the one of the same paper learns it.
The paper's claim: with a few copies, pooling configurations that disturb each other in one supernet are ranked well.

This implementation differs: the copies start as the weights that were given, where the paper draws each anew (write
other values into the family's extra parameters for that). Running statistics are each member's own, as ever. One
optimizer serves all copies where the paper has one for each: one with momentum or weight decay goes on moving copy 0,
the network itself, while others learn, as it moves all weights that a member lacks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn

from ...checks import WrongShapeError
from ...graph.slicing import Pick, take
from ...space.choice import Choice, Option
from ...technique import Elastic, Paper, Stage

if TYPE_CHECKING:
    from ...family.draft import Draft
    from ...family.family import Family
    from ...graph.analysis import Analysis
    from ...space.config import Config


@dataclass(frozen=True)
class WeightCopies(Elastic):
    """Keep several copies of every parameter; one choice says which of them a member is cut from.

    Attributes:
        copies: how many, the network's own weights included; 1 is plain sharing.
        choice: the name of the choice; its largest option, 0, stands for the network's own weights.
    """

    copies: int = 2
    choice: str = "copy"

    paper: ClassVar[Paper | None] = Paper(
        "Javan, Toews, Pedersoli",
        2023,
        "Balanced Mixture of SuperNets for Learning the CNN Pooling Architecture",
        "2306.11982",
    )
    stage: ClassVar[Stage | None] = Stage.KERNEL
    offers: ClassVar[bool] = False

    def __post_init__(self) -> None:
        """Check the fields."""
        if not isinstance(self.copies, int) or self.copies < 1:
            raise WrongShapeError(f"WeightCopies.copies is a whole number, 1 or more; got {self.copies!r}")

    def choices(self, analysis: Analysis) -> Sequence[Choice]:
        """Return the choice of the copy, unordered; none where there is one copy."""
        if self.copies == 1:
            return ()
        return (Choice(self.choice, tuple(range(self.copies))[::-1], ordered=False),)

    def extras(self, analysis: Analysis, tensors: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return every copy but the network's own, of each parameter with gradients, wherever this is placed."""
        found: dict[str, Tensor] = {}
        for at in range(1, self.copies):
            for name in _learning(tensors):
                found[self._name(at, name)] = tensors[name].detach().clone()
        return found

    def prepare(self, family: Family) -> None:
        """Copy anew, as units may have been sorted."""
        tensors = family.tensors()
        with torch.no_grad():
            for at in range(1, self.copies):
                for name in _learning(tensors):
                    family.extra[self._name(at, name)].copy_(tensors[name])

    def apply(self, draft: Draft, options: Mapping[str, Option]) -> None:
        """Do nothing yet: what is cut from a copy is known when all techniques have been asked."""

    def weigh(self, draft: Draft, config: Config) -> None:
        """Let the member take its weights from its copy, before anything else is made of them."""
        if self.copies == 1 or config[self.choice] == 0:
            return
        at, slicing = int(config[self.choice]), draft.slicing()  # type: ignore[arg-type]
        prefix = self._name(at, "")
        for key, value in draft.extra.items():
            if key.startswith(prefix):
                name = key.removeprefix(prefix)
                draft.map(name, partial(_taken, value, slicing.picks(name)), first=True)

    def _name(self, at: int, name: str) -> str:
        return f"{self.choice}{at}/{name}"


def _taken(whole: Tensor, picks: tuple[Pick, ...], weight: Tensor) -> Tensor:
    return take(whole, picks)


def _learning(tensors: Mapping[str, Any]) -> list[str]:
    return [name for name, value in tensors.items() if isinstance(value, nn.Parameter) and value.requires_grad]
