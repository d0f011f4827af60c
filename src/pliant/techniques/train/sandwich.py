"""The sandwich recipe: each step trains the largest member, the smallest, and some in between.

The largest member learns from the labels, the others from the largest member's outputs on the same batch (in-place
distillation). The papers' claim: training both ends bounds all members between them, and with in-place distillation
one run serves every width (universally slimmable networks), and depth, kernel and resolution too (BigNAS).

This implementation differs in two defaults, both for families trained from scratch for few steps. The others learn
half from the labels and half from the teacher, as in Once-for-all: a teacher that knows nothing yet teaches noise, and
with the teacher alone (``share=1``, the papers' way) every member of the digits family ended several times worse. And
the optimizer steps after each member, not once on the sum of all gradients (``together=True``, the papers' way): the
smallest members of the digits family then ended as good as trained alone, where the sum left them 0.3 to 2.5 points
behind (two seeds). It takes as many optimizer steps as members; a learning rate a little below that for one network
(0.6 times, for digits) did as well or better. No special initialisation or schedule here; those are the loop's and the
model's business.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ...checks import WrongShapeError
from ...technique import Paper, Recipe, Turn
from ._fields import check_shares
from ._learning import learn_led


@dataclass(frozen=True)
class Sandwich(Recipe):
    """Train the largest member, the smallest and ``between`` random ones from every batch.

    Attributes:
        between: how many random members learn beside the two ends.
        share: how much of the others' loss is distillation from the largest member, the rest being the labels' loss;
            1 is the papers' recipe, 0 is no distillation.
        balance: where they learn ``together``, what the others' losses weigh together, the largest member's weighing
            1; shared evenly among them.
        temperature: softens the teachers' outputs.
        together: one optimizer step for all members of a batch, on the weighted sum of their gradients; else one after
            each member. In a loop of your own, without the optimizer given to :class:`TrainingStep`, gradients add up.
        lead: how much of the largest member's loss is distillation from the run's own teacher, where it has one.
    """

    between: int = 2
    share: float = 0.5
    balance: float = 1.0
    temperature: float = 1.0
    together: bool = False
    lead: float = 0.5

    paper: ClassVar[Paper | None] = Paper(
        "Yu, Huang", 2019, "Universally Slimmable Networks and Improved Training Techniques", "1903.05134"
    )
    gives: ClassVar[frozenset[str]] = frozenset({"trained members"})

    def __post_init__(self) -> None:
        """Check the fields."""
        if self.between < 0 or self.temperature <= 0 or self.balance <= 0 or not 0 <= self.share <= 1:
            raise WrongShapeError(
                "Sandwich needs between >= 0, share from 0 to 1, balance > 0 and temperature > 0; "
                f"got {self.between}, {self.share}, {self.balance} and {self.temperature}"
            )
        check_shares(self, "lead")

    def step(self, turn: Turn) -> None:
        """Let the members of this step learn from the batch at hand."""
        largest, smallest = turn.space.largest(), turn.space.smallest()
        teacher = learn_led(turn, largest, self.lead, self.temperature)
        if smallest == largest:
            return
        others = [turn.space.sample(turn.rng) for _ in range(self.between)]
        weight = self.balance / (len(others) + 1) if self.together else 1.0
        for config in (*others, smallest):
            if not self.together:
                turn.update()
            turn.learn(config, teacher=teacher, share=self.share, temperature=self.temperature, weight=weight)
