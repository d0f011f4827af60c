"""The sandwich recipe: each step trains the largest member, the smallest, and some in between.

The largest member learns from the labels, the others from the largest member's outputs on the same batch (in-place
distillation). The papers' claim: training both ends bounds all members between them, and with in-place distillation
one run serves every width (universally slimmable networks), and depth, kernel and resolution too (BigNAS).

Differs from BigNAS: no special initialisation or schedule here; those are the loop's and the model's business.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ...checks import WrongShapeError
from ...technique import Paper, Recipe, Turn


@dataclass(frozen=True)
class Sandwich(Recipe):
    """Train the largest member, the smallest and ``between`` random ones from every batch.

    Attributes:
        between: how many random members learn beside the two ends.
        distill: let the others learn from the largest member's outputs instead of from the labels.
        temperature: softens the teacher's outputs.
    """

    between: int = 2
    distill: bool = True
    temperature: float = 1.0

    paper: ClassVar[Paper | None] = Paper(
        "Yu, Huang", 2019, "Universally Slimmable Networks and Improved Training Techniques", "1903.05134"
    )
    gives: ClassVar[frozenset[str]] = frozenset({"trained members"})

    def __post_init__(self) -> None:
        """Check the fields."""
        if self.between < 0 or self.temperature <= 0:
            raise WrongShapeError(
                f"Sandwich needs between >= 0 and temperature > 0; got {self.between} and {self.temperature}"
            )

    def step(self, turn: Turn) -> None:
        """Let the members of this step learn from the batch at hand."""
        largest, smallest = turn.space.largest(), turn.space.smallest()
        teacher = turn.learn(largest)
        if smallest == largest:
            return
        others = [turn.space.sample(turn.rng) for _ in range(self.between)]
        for config in (*others, smallest):
            turn.learn(config, teacher=teacher if self.distill else None, temperature=self.temperature)
