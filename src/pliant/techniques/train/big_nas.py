"""BigNAS: a single-stage family whose members are used as they are, from a sandwich with four stabilisers.

Every step trains the largest member on the labels, the smallest and some random ones on the largest member's outputs
(in-place distillation). Around that: the last normalisation of every residual branch starts with a gain of zero, so
that every block starts as the identity; only the largest member is regularised (dropout and the like are off for the
others); and the learning rate decays exponentially but ends constant, which keeps small members learning. The paper's
claim: members from 200 to 1000 MFLOPs reach 76.5 to 80.9 % on ImageNet without any further training, above
EfficientNets and Once-for-all.

This implementation differs: gains are zeroed only where normalisation is as it was made (gain 1, shift 0), so that a
pretrained network is never harmed, and branches that end without a normalisation, as those of most transformers, start
as they are; weight decay is the optimizer's and acts once per update on all weights, which are the largest member's;
the input's resolution is the batches' business. Statistics of normalisation are estimated again for every member that
is evaluated or extracted, by the family. The paper's coarse-to-fine selection, sizes of the whole network first, then
of its layers, is a search, not training: a search over a family with ``uniform`` choices, then around its best.
A teacher that knows nothing yet teaches noise: in short runs from scratch a ``share`` of a half serves better.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor

from ...technique import Paper, Recipe, Turn
from ._fields import check_counts, check_positive, check_shares, refuse
from ._learning import learn_after, learn_led
from ._residual import closing_gains

if TYPE_CHECKING:
    from ...family.family import Family

_log = logging.getLogger("pliant.training")


@dataclass(frozen=True)
class BigNas(Recipe):
    """Train a sandwich of members with zeroed residual gains, the largest alone regularised, and a rate that ends flat.

    Attributes:
        between: how many random members learn beside the two ends.
        share: how much of the others' loss is distillation from the largest member, the rest being the labels' loss.
        temperature: softens the teachers' outputs.
        lead: how much of the largest member's loss is distillation from the run's own teacher, where it has one.
        decay: what the learning rate's factor would have decayed to at the end.
        floor: where it stops decaying and stays constant; the paper's is 5 %.
        together: one optimizer step for all members of a batch, as published; else one after each member.
    """

    between: int = 2
    share: float = 1.0
    temperature: float = 1.0
    lead: float = 0.5
    decay: float = 0.01
    floor: float = 0.05
    together: bool = True

    paper: ClassVar[Paper | None] = Paper(
        "Yu, Jin, Liu, Bender, Kindermans, Tan, Huang, Song, Pang, Le",
        2020,
        "BigNAS: Scaling Up Neural Architecture Search with Big Single-Stage Models",
        "2003.11142",
    )
    gives: ClassVar[frozenset[str]] = frozenset({"trained members"})

    def __post_init__(self) -> None:
        """Check the fields."""
        check_counts(self, 0, "between")
        check_shares(self, "share", "lead", "floor")
        check_positive(self, "temperature")
        if not 0 < self.decay <= 1:
            refuse(self, "decay", "above 0 and at most 1")

    def prepare(self, family: Family) -> None:
        """Let residual blocks start as the identity: zero their branches' last gains that were never trained."""
        gains = closing_gains(family.analysis, family.model)
        tensors = family.model.state_dict()
        fresh = {name: gain for name, gain in gains.items() if gain.requires_grad and _untouched(name, tensors)}
        with torch.no_grad():
            for gain in fresh.values():
                gain.zero_()
        family.forget()
        _log.info(
            "%d of %d residual blocks start as the identity; %d gains had been trained and stay",
            len(fresh), len(family.analysis.blocks), len(gains) - len(fresh),
        )  # fmt: skip

    def rate(self, done: float) -> float:
        """Return an exponential decay that ends constant."""
        return max(self.floor, self.decay**done)

    def step(self, turn: Turn) -> None:
        """Let the members of this step learn from the batch at hand."""
        largest, smallest = turn.space.largest(), turn.space.smallest()
        teacher = learn_led(turn, largest, self.lead, self.temperature)
        if smallest == largest:
            return
        others = [turn.space.sample(turn.rng) for _ in range(self.between)]
        learn_after(
            turn, (*others, smallest), self.together,
            teacher=teacher, share=self.share, temperature=self.temperature, regularise=False,
        )  # fmt: skip


def _untouched(name: str, tensors: Mapping[str, Tensor]) -> bool:
    """Return whether a normalisation with the gain ``name`` is as it was made, its running statistics included."""
    path = name.removesuffix("weight")
    made = {"weight": 1, "bias": 0, "running_mean": 0, "running_var": 1}
    return all(bool((tensors[path + part] == value).all()) for part, value in made.items() if path + part in tensors)
