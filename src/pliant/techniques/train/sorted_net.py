"""SortedNet: nested sub-models drawn at random, the gradients of several added up before one update.

Units are in an order, and every sub-model is a prefix of the full network in each of its dimensions (width, heads,
depth); so smaller ones lie inside larger ones, and a budget picks one without a search. In every step a few drawn
evenly learn from the labels, without distillation and without the largest being special. The paper's claim: up to 160
sub-models trained at once keep 96 % of the full model's performance.

This implementation differs: those that learn before one update all learn from the step's batch, and the order of units
is by importance at the start of the run (the family's), not as the network was made. ``fitting`` looks at sub-models
whose dimensions shrink in step; in between, a search finds better ones.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

from ...checks import WrongShapeError
from ...space.config import Config
from ...space.space import Space
from ...technique import Paper, Recipe, Turn
from ._fields import check_counts, check_positive, check_shares
from ._learning import learn_led
from ._options import nested


@dataclass(frozen=True)
class SortedNet(Recipe):
    """Train random nested sub-models, several per optimizer step.

    Attributes:
        accumulate: how many sub-models' gradients are averaged for one update.
        lead: how much of their loss is distillation from the run's own teacher, where it has one.
        temperature: softens that teacher's outputs.
    """

    accumulate: int = 4
    lead: float = 0.5
    temperature: float = 1.0

    paper: ClassVar[Paper | None] = Paper(
        "Valipour, Rezagholizadeh, Rajabzadeh, Kavehzadeh, Tahaei, Chen, Ghodsi",
        2023,
        "SortedNet, a Place for Every Network and Every Network in its Place: Towards a Generalized Solution for "
        "Training Many-in-One Neural Networks",
        "2309.00255",
    )
    gives: ClassVar[frozenset[str]] = frozenset({"trained members"})

    def __post_init__(self) -> None:
        """Check the fields."""
        check_counts(self, 1, "accumulate")
        check_shares(self, "lead")
        check_positive(self, "temperature")

    def step(self, turn: Turn) -> None:
        """Let several random sub-models learn for one update."""
        for _ in range(self.accumulate):
            config = turn.space.sample(turn.rng)
            learn_led(turn, config, self.lead, self.temperature, weight=1 / self.accumulate)

    def fitting(self, space: Space, cost: Callable[[Config], float], budget: float) -> Config:
        """Return the largest of the sub-models that shrink in step whose ``cost`` is within ``budget``.

        Raises:
            WrongShapeError: not even the smallest is.
        """
        chain = nested(space)
        for config in reversed(chain):
            if cost(config) <= budget:
                return config
        raise WrongShapeError(
            f"the smallest sub-model costs {cost(chain[0]):g}, above the budget of {budget:g}; raise the budget, or "
            "make a family with smaller options"
        )
