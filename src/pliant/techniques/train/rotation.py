"""Rotation: one member learns from each batch; the largest and the smallest have their turns, the others are drawn.

It keeps the sandwich rule of universally slimmable networks: train the largest and the smallest often, as the paper's
claim is that they bound all members between them. Plain single path hardly ever draws either end of a large space, and
a network that came with good weights would lose them.

This implementation differs from the sandwich in what gives it its name: its members do not share a batch, each has one
of its own, as in single path one-shot (Guo et al., 2020), whose rate that falls linearly to zero is taken over too. The
combination is ours, published nowhere that we know of. Where a family is trained from scratch, a new batch teaches more
than another member's answer on the same one: at equal compute members err less than with the sandwich, and on average
about as with single path (the figures stand in the documentation, under Recipes). Distillation from the largest member
is a field; it costs a forward pass of the largest member in the steps of all others, which bought less than the steps
that it took.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ...technique import Paper, Recipe, Turn
from ._fields import check_counts, check_positive, check_shares
from ._learning import learn_led


@dataclass(frozen=True)
class Rotation(Recipe):
    """Train one member per step: the largest, random ones, the smallest, random ones, and again.

    Attributes:
        period: the largest member learns in every ``period``-th step, the first included, the smallest half a period
            later, a random member in each of the other steps.
        share: how much of the other members' loss is distillation from the largest member; above 0 it runs forward in
            their steps too. A pretrained network is a teacher from the first step on.
        lead: how much of the largest member's loss, and where ``share`` is 0 of every member's, is distillation from
            the run's own teacher, where it has one.
        temperature: softens the teachers' outputs.
    """

    period: int = 8
    share: float = 0.0
    lead: float = 0.5
    temperature: float = 1.0

    paper: ClassVar[Paper | None] = Paper(
        "Yu, Huang", 2019, "Universally Slimmable Networks and Improved Training Techniques", "1903.05134"
    )
    gives: ClassVar[frozenset[str]] = frozenset({"trained members"})

    def __post_init__(self) -> None:
        """Check the fields."""
        check_counts(self, 2, "period")
        check_shares(self, "share", "lead")
        check_positive(self, "temperature")

    def rate(self, done: float) -> float:
        """Return a line from 1 to 0."""
        return 1.0 - done

    def step(self, turn: Turn) -> None:
        """Let the member whose turn it is learn."""
        largest, place = turn.space.largest(), turn.step % self.period
        if place == 0:
            config = largest
        elif place == self.period // 2:
            config = turn.space.smallest()
        else:
            config = turn.space.sample(turn.rng)
        if self.share == 0.0 or config == largest:
            learn_led(turn, config, self.lead, self.temperature)
        else:
            turn.learn(config, teacher=turn.see(largest), share=self.share, temperature=self.temperature)
