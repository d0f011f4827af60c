"""The sandwich recipe: each step trains the largest member, the smallest, and some in between.

The largest member learns from the labels, the others from the largest member's outputs on the same batch (in-place
distillation). The papers' claim: training both ends bounds all members between them, and with in-place distillation
one run serves every width (universally slimmable networks), and depth, kernel and resolution too (BigNAS).

This implementation differs in one thing: by default the others learn half from the labels and half from the teacher,
as Once-for-all does. With the teacher alone (``share=1``, the papers' way) a family trained from scratch for few steps
learns from a teacher that knows nothing yet: on the digits task it ended several times worse for every member.
No special initialisation or schedule here; those are the loop's and the model's business.
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
        share: how much of the others' loss is distillation from the largest member, the rest being the labels' loss;
            1 is the papers' recipe, 0 is no distillation.
        temperature: softens the teacher's outputs.
    """

    between: int = 2
    share: float = 0.5
    temperature: float = 1.0

    paper: ClassVar[Paper | None] = Paper(
        "Yu, Huang", 2019, "Universally Slimmable Networks and Improved Training Techniques", "1903.05134"
    )
    gives: ClassVar[frozenset[str]] = frozenset({"trained members"})

    def __post_init__(self) -> None:
        """Check the fields."""
        if self.between < 0 or self.temperature <= 0 or not 0 <= self.share <= 1:
            raise WrongShapeError(
                "Sandwich needs between >= 0, share from 0 to 1 and temperature > 0; "
                f"got {self.between}, {self.share} and {self.temperature}"
            )

    def step(self, turn: Turn) -> None:
        """Let the members of this step learn from the batch at hand."""
        largest, smallest = turn.space.largest(), turn.space.smallest()
        teacher = turn.learn(largest)
        if smallest == largest:
            return
        others = [turn.space.sample(turn.rng) for _ in range(self.between)]
        for config in (*others, smallest):
            turn.learn(config, teacher=teacher, share=self.share, temperature=self.temperature)
