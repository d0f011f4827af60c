"""Progressive shrinking, the training of Once-for-all: first the full network alone, then smaller ones, kind by kind.

The run has phases. The full network learns alone; then a frozen copy of it teaches whatever follows. One kind of choice
after another opens, kernel sizes, depths, widths, and within a kind the options from the largest to the smallest; in
every step a few members drawn evenly from what is open learn from the labels and the copy, on one optimizer step. The
paper's claim: opened in this order small members do not disturb large ones, and more than 10^19 members reach the
accuracy of networks trained alone (80.0 % on ImageNet below 600M MACs), up to 4 points above the same network trained
on its own.

Before smaller widths open, units are sorted by the importance that they have got by then, so that the least important
ones are cut; as in the authors' code, units that a width which is open already keeps are sorted among themselves, so
that no member changes which has learnt. What the optimizer remembers moves along with the units.

This implementation differs: choices belong to a kind by their names; every kind opens its options one by one, in equal
parts of the time, where the authors' code opens all kernel sizes at once (120 epochs) and depths and widths in two
parts (25 and 120 epochs); there one member learns in each step while kernels open, two for depths and four for widths,
here always ``members``. Every part is a training of its own there, with a new optimizer and rate; here the rate starts
anew once, at the end of the first phase, and the optimizer never. Importance is that of the technique that offers the
widths (there: the L1 norms of the weights that a layer's units are read by). Where a technique keeps weights of its own
for single units, such as adapters, units stay in the order that they had before the run. The input's resolution is the
batches' business, and kernel transforms that of the technique that offers kernel sizes. The paper's loss, labels and
teacher with equal weights, is ``share=0.5`` at twice the rate.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import ClassVar

from ...checks import WrongShapeError
from ...space.space import Space
from ...technique import Paper, Recipe, Turn
from ._fields import check_counts, check_positive, check_shares, refuse
from ._learning import learn_led
from ._options import Options, allowed_options, draw
from ._sorting import sort_anew

_KEPT = "full"


@dataclass(frozen=True)
class ProgressiveShrinking(Recipe):
    """Train the full network, then open smaller options kind by kind, taught by a frozen copy of the full one.

    Attributes:
        full: the share of the steps in which the full network learns alone, below 1.
        order: patterns of choices' names, as file names match; a choice is of the first kind that fits, and the kinds
            open in this order.
        members: how many members learn in every step of the later phases.
        share: how much of their loss is distillation from the copy, the rest being the labels' loss.
        temperature: softens the teachers' outputs.
        lead: how much of the full network's loss is distillation from the run's own teacher, where it has one.
        again: the factor of the learning rate at which shrinking starts; in both parts it ends at 0 by a cosine. It
            multiplies the run's own schedule, which is constant unless one is given.
    """

    full: float = 0.3
    order: tuple[str, ...] = ("*kernel*", "*depth*", "*")
    members: int = 2
    share: float = 0.5
    temperature: float = 1.0
    lead: float = 0.5
    again: float = 0.5

    paper: ClassVar[Paper | None] = Paper(
        "Cai, Gan, Wang, Zhang, Han",
        2020,
        "Once-for-All: Train One Network and Specialize it for Efficient Deployment",
        "1908.09791",
    )
    gives: ClassVar[frozenset[str]] = frozenset({"trained members"})

    def __post_init__(self) -> None:
        """Check the fields."""
        check_counts(self, 1, "members")
        check_shares(self, "share", "lead")
        check_positive(self, "temperature", "again")
        if not 0 <= self.full < 1:
            refuse(self, "full", "a share of the steps, 0 or more and below 1")
        if isinstance(self.order, str) or not all(isinstance(each, str) for each in self.order):
            refuse(self, "order", "a tuple of patterns such as ('*depth*', '*')")

    def rate(self, done: float) -> float:
        """Return 1: every phase has its own cosine."""
        return 1.0

    def opened(self, space: Space, step: int, steps: int) -> Options:
        """Return the options of every choice from which members are drawn at a step.

        Raises:
            WrongShapeError: a choice is of no kind, so that it would never open.
        """
        options = allowed_options(space)
        kinds = self._kinds(options)
        first = round(self.full * steps)
        found = {name: few[-1:] for name, few in options.items()}
        if step < first or not kinds:
            return found
        span = (steps - first) / len(kinds)
        for at, kind in enumerate(kinds):
            parts = max(len(options[name]) for name in kind) - 1
            part = 1 + math.floor((step - first - at * span) / span * parts)
            for name in kind:
                found[name] = options[name][-1 - min(max(part, 0), parts) :]
        return found

    def _kinds(self, options: Options) -> list[list[str]]:
        """Return the names of the choices that can open, by kind."""
        rows: dict[str, list[str]] = {pattern: [] for pattern in self.order}
        for name, few in options.items():
            fits = [pattern for pattern in self.order if fnmatchcase(name, pattern)]
            if not fits:
                raise WrongShapeError(
                    f"no pattern of ProgressiveShrinking.order, {self.order}, fits the choice {name!r}, so that its "
                    "smaller options would never learn; end it with '*', or leave the choice out of the family"
                )
            if len(few) > 1:
                rows[fits[0]].append(name)
        return [names for names in rows.values() if names]

    def step(self, turn: Turn) -> None:
        """Let the full network learn, or members of what is open."""
        space, first = turn.space, round(self.full * turn.steps)
        options = self.opened(space, turn.step, turn.steps)
        if turn.step < first:
            turn.rate = _cosine(turn.step / first)
            learn_led(turn, space.largest(), self.lead, self.temperature)
            return
        turn.rate = self.again * _cosine((turn.step - first) / (turn.steps - first))
        if space.size == 1:
            learn_led(turn, space.largest(), self.lead, self.temperature)
            return
        if not turn.kept(_KEPT):
            turn.keep(_KEPT, space.largest())
        sort_anew(turn, self.opened(space, turn.step - 1, turn.steps), options)
        teacher = turn.recall(_KEPT)
        for _ in range(self.members):
            turn.learn(draw(options, turn.rng), teacher=teacher, share=self.share, temperature=self.temperature)


def _cosine(done: float) -> float:
    return 0.5 * (1 + math.cos(math.pi * done))
