"""LLaMA-NAS: a language model is fine-tuned once, its whole and random members in alternate steps.

Depth and the feed-forward width of every layer are the choices. The whole network learns in one step, a random member
in the next, both on the task alone: distillation would need both in memory at once. A genetic search with two
objectives then finds members, and quantisation makes them smaller still. The paper's claim: on some tasks members of
LLaMA2-7B are 1.5 times smaller and 1.3 times faster at hardly any loss, better than pruning.

This implementation differs: the choices are the family's (elastic width and depth give the paper's), and how often the
whole network learns is a field. Searching and quantising are those rooms' business. Where the run has a teacher of its
own, the whole network may learn from it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ...technique import Paper, Recipe, Turn
from ._fields import check_counts, check_positive, check_shares
from ._learning import learn_led


@dataclass(frozen=True)
class LlamaNas(Recipe):
    """Fine-tune the whole network and random members in turn, on the labels alone.

    Attributes:
        period: the whole network learns in every ``period``-th step, the first included, random members in the others.
        lead: how much of the whole network's loss is distillation from the run's own teacher, where it has one.
        temperature: softens that teacher's outputs.
    """

    period: int = 2
    lead: float = 0.5
    temperature: float = 1.0

    paper: ClassVar[Paper | None] = Paper(
        "Sarah, Sridhar, Szankin, Sundaresan",
        2024,
        "LLaMA-NAS: Efficient Neural Architecture Search for Large Language Models",
        "2405.18377",
    )
    gives: ClassVar[frozenset[str]] = frozenset({"trained members"})

    def __post_init__(self) -> None:
        """Check the fields."""
        check_counts(self, 2, "period")
        check_shares(self, "lead")
        check_positive(self, "temperature")

    def step(self, turn: Turn) -> None:
        """Let the whole network learn, or one random member."""
        if turn.step % self.period == 0:
            learn_led(turn, turn.space.largest(), self.lead, self.temperature)
        else:
            turn.learn(turn.space.sample(turn.rng))
