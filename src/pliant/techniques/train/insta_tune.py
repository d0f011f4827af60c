"""InstaTune: a pretrained network becomes a family while it is fine-tuned, in the same run.

Every step of the fine-tuning trains the whole network on the task and some random members of it on the whole network's
outputs on the same batch. The paper's claim: one needs neither a network made for searching nor a training of its own
to get members for many devices, and those found are better on the task than those of a family trained on the original
one, for ViT, BERT and BEiT-3, with heads, feed-forward widths and depth as choices.

What is implemented follows the paper's abstract and the account that its authors give of it in LLaMA-NAS: whole network
and a random member learn in the same step, with strong distillation from the one to the other. No code was published,
and no more of the paper's text was at hand, so that how this differs in detail, such as in weights and in numbers of
members, is not known to us: ``members`` and ``share`` say what is done here. The smallest member is not trained in
particular, and nothing of the given weights is initialised anew. The search that follows, in the paper an evolutionary
one with several objectives that asks lightly trained predictors first, is any search over the family.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ...technique import Paper, Recipe, Turn
from ._fields import check_counts, check_positive, check_shares
from ._learning import learn_after, learn_led


@dataclass(frozen=True)
class InstaTune(Recipe):
    """Fine-tune the whole network and random members that learn from it, in the same steps.

    Attributes:
        members: how many random members learn beside the whole network.
        share: how much of their loss is distillation from the whole network, the rest being the labels' loss.
        temperature: softens the teachers' outputs.
        lead: how much of the whole network's loss, and where ``share`` is 0 of every member's, is distillation from the
            run's own teacher, where it has one; 1 with the original network as teacher tunes without labels.
        together: one optimizer step for all that learn from a batch; else one after each.
    """

    members: int = 1
    share: float = 1.0
    temperature: float = 1.0
    lead: float = 0.5
    together: bool = True

    paper: ClassVar[Paper | None] = Paper(
        "Sridhar, Kundu, Sundaresan, Szankin, Sarah",
        2023,
        "InstaTune: Instantaneous Neural Architecture Search During Fine-Tuning",
        "2308.15609",
    )
    gives: ClassVar[frozenset[str]] = frozenset({"trained members"})

    def __post_init__(self) -> None:
        """Check the fields."""
        check_counts(self, 1, "members")
        check_shares(self, "share", "lead")
        check_positive(self, "temperature")

    def step(self, turn: Turn) -> None:
        """Let the whole network learn, and random members from it."""
        teacher = learn_led(turn, turn.space.largest(), self.lead, self.temperature)
        if turn.space.size == 1:
            return
        others = [turn.space.sample(turn.rng) for _ in range(self.members)]
        share = self.share
        if share == 0.0:
            teacher, share = turn.taught(), self.lead
        learn_after(turn, others, self.together, teacher=teacher, share=share, temperature=self.temperature)
