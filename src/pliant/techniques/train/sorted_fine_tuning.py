"""Sorted fine-tuning: every depth of the network learns in every step, through the one last norm and head.

The network cut after some of its layers, followed by the same last normalisation and head, is a sub-model without a
single new parameter. The losses of all of them are added up. The paper's claim: LLaMA 2 13B fine-tuned so on Alpaca
answers twice as fast from an intermediate layer at the quality of the original, and each sub-model can be cut out, or
used for leaving early.

This implementation differs: each depth runs on its own, so that a step costs as much as all of them one after another,
where one pass with an exit at every layer would do; the gradient is the same. All choices that are not about depth
stay at their largest. Where a network has several rows of blocks, they become shallower in step.
"""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import ClassVar

from ...checks import WrongShapeError
from ...technique import Paper, Recipe, Turn
from ._fields import check_counts, check_positive, check_shares
from ._learning import learn_led
from ._options import nested


@dataclass(frozen=True)
class SortedFineTuning(Recipe):
    """Train all depths at once, on the sum of their losses.

    Attributes:
        depth: a pattern of the names of the choices that say how many blocks stay, as file names match.
        every: train the whole network and every ``every``-th depth below it.
        lead: how much of the loss is distillation from the run's own teacher, where it has one.
        temperature: softens that teacher's outputs.
    """

    depth: str = "*depth"
    every: int = 1
    lead: float = 0.5
    temperature: float = 1.0

    paper: ClassVar[Paper | None] = Paper(
        "Kavehzadeh, Valipour, Tahaei, Ghodsi, Chen, Rezagholizadeh",
        2024,
        "Sorted LLaMA: Unlocking the Potential of Intermediate Layers of Large Language Models for Dynamic Inference "
        "Using Sorted Fine-Tuning (SoFT)",
        "2309.08968",
    )
    gives: ClassVar[frozenset[str]] = frozenset({"trained depths"})

    def __post_init__(self) -> None:
        """Check the fields."""
        check_counts(self, 1, "every")
        check_shares(self, "lead")
        check_positive(self, "temperature")

    def step(self, turn: Turn) -> None:
        """Let every depth learn, the whole network first.

        Raises:
            WrongShapeError: the family has choices, but none of depth.
        """
        choices = turn.space.choices
        if choices and not any(fnmatchcase(choice.name, self.depth) for choice in choices):
            raise WrongShapeError(
                f"SortedFineTuning trains depths, and no choice's name fits {self.depth!r}: there are "
                f"{[choice.name for choice in choices[:6]]}; make the family with a technique that offers depths, or "
                "say with depth= what they are called"
            )
        for config in reversed(nested(turn.space, self.depth, self.every)):
            learn_led(turn, config, self.lead, self.temperature)
