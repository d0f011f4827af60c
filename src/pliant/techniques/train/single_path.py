"""Single path one-shot: one random member per step, all equally likely, nothing else.

The paper's claim: trained so, members' accuracies with shared weights rank them well enough for a search under limits,
without the couplings between weights and choices that gradient-based searches have. It draws blocks, channels (slices
of one weight) and bits alike; whatever a family offers is drawn alike here. The rate falls linearly to zero, as in the
paper.

This implementation differs: where the run has a teacher of its own, members may learn from it (the paper has none).
The search that follows, evolution with normalisation estimated anew for every candidate, is any search over the family:
its members are evaluated so. Members are equally likely as configs; with elastic depth several configs may stand for
one network, as sizes inside left-out blocks do not matter.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ...technique import Paper, Recipe, Turn
from ._fields import check_positive, check_shares
from ._learning import learn_led


@dataclass(frozen=True)
class SinglePath(Recipe):
    """Train one member per step, drawn evenly from the space.

    Attributes:
        lead: how much of its loss is distillation from the run's own teacher, where it has one.
        temperature: softens that teacher's outputs.
    """

    lead: float = 0.5
    temperature: float = 1.0

    paper: ClassVar[Paper | None] = Paper(
        "Guo, Zhang, Mu, Heng, Liu, Wei, Sun",
        2020,
        "Single Path One-Shot Neural Architecture Search with Uniform Sampling",
        "1904.00420",
    )
    gives: ClassVar[frozenset[str]] = frozenset({"trained members"})

    def __post_init__(self) -> None:
        """Check the fields."""
        check_shares(self, "lead")
        check_positive(self, "temperature")

    def rate(self, done: float) -> float:
        """Return a line from 1 to 0."""
        return 1.0 - done

    def step(self, turn: Turn) -> None:
        """Let one random member learn."""
        learn_led(turn, turn.space.sample(turn.rng), self.lead, self.temperature)
