"""Delayed shrinking: smaller members join when the full network is half trained, at rates that rise slowly.

The full network learns alone until about half of the run is over, so that it is a good teacher by then and large
members are hardly disturbed. From then on every step is a sandwich: the full network learns from the labels, the
smallest member and random ones from its outputs on the same batch, and their learning rates rise from nothing to the
full network's. The paper's claim: 1.83 points more on ImageNet than the best shrinking before it, or the same accuracy
at 1.3 times fewer FLOPs and 2.5 times less training.

This implementation differs in where the rise lies: it begins when the delay is over, where the authors' code ends it
there; and in how gradients are joined: they add up, smaller members' multiplied by how far their rate has risen, while
the authors' code also offers to divide each weight's gradient by how many members have that weight. With optimizers
that normalise gradients, as Adam does, a multiplied gradient is no smaller step where only small members learn;
``together=False`` gives every member a step of its own with the risen learning rate.

Known: on a small family for digits, at equal cost (three seeds), the full network ended better than with shrinking from
the start, the smallest member no better.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ...technique import Paper, Recipe, Turn
from ._fields import check_counts, check_positive, check_shares
from ._learning import learn_led


@dataclass(frozen=True)
class DelayedShrinking(Recipe):
    """Train the full network alone first, then a sandwich of members whose learning rates rise slowly.

    Attributes:
        delay: the share of the steps in which the full network learns alone.
        ramp: the share of the steps in which the others' rates rise, from the delay's end on.
        between: how many random members learn beside the two ends.
        share: how much of the others' loss is distillation from the full network, the rest being the labels' loss.
        temperature: softens the teachers' outputs.
        lead: how much of the full network's loss is distillation from the run's own teacher, where it has one.
        together: one optimizer step for all members of a batch, as published; else one after each member.
    """

    delay: float = 0.5
    ramp: float = 0.1
    between: int = 2
    share: float = 1.0
    temperature: float = 1.0
    lead: float = 0.5
    together: bool = True

    paper: ClassVar[Paper | None] = Paper(
        "Annavajjala, Khare, Agrawal, Fedorov, Latapie, Lee, Tumanov",
        2024,
        "DεpS: Delayed ε-Shrinking for Faster Once-For-All Training",
        "2407.06167",
    )
    gives: ClassVar[frozenset[str]] = frozenset({"trained members"})

    def __post_init__(self) -> None:
        """Check the fields."""
        check_counts(self, 0, "between")
        check_shares(self, "delay", "ramp", "share", "lead")
        check_positive(self, "temperature")

    def risen(self, step: int, steps: int) -> float:
        """Return how far the smaller members' rate has risen at a step: 0 in the delay, 1 after the rise."""
        first = round(self.delay * steps)
        return 0.0 if step < first else min(1.0, (step - first + 1) / max(1, round(self.ramp * steps)))

    def step(self, turn: Turn) -> None:
        """Let the full network learn, and after the delay smaller members from it."""
        largest, smallest = turn.space.largest(), turn.space.smallest()
        teacher = learn_led(turn, largest, self.lead, self.temperature)
        risen = self.risen(turn.step, turn.steps)
        if not risen or smallest == largest:
            return
        for config in (smallest, *(turn.space.sample(turn.rng) for _ in range(self.between))):
            if not self.together:
                turn.update()
                turn.rate = risen
            weight = risen if self.together else 1.0
            turn.learn(config, teacher=teacher, share=self.share, temperature=self.temperature, weight=weight)
