"""ShiftNAS: what members cost is drawn first, from probabilities that shift to where members still change.

Drawn evenly, most members cost about the middle of the range, and the ends are trained too little. So the range of
costs is cut into levels; in every step a level is drawn, and a generator, a small recurrent network, gives a member
that costs what the level asks for. Levels whose members' loss still changes much are drawn more often (probability
shift). The generator learns along: from how far its members' costs are from those wanted, and from their losses, so
that it gives good members of a cost. The paper's claim: members of all costs get better, without more training, for
convolutional networks and transformers alike.

This implementation differs. It was written from the paper's abstract and published summaries; how the paper computes
the probabilities in detail was not at hand. Here a level's variation is the change of its mean loss from one window of
steps to the next, divided by the mean loss, and the probabilities are a softmax of it, mixed with even ones. The
paper's generator gets the gradient of the task's loss through masks on the shared weights; members here are networks
of their own that know no mask, so that it gets the score function's gradient of the loss instead (REINFORCE, with the
level's mean loss as baseline), while the cost's gradient goes straight through its choices, as in the paper. In
every step it proposes several members for the cost that was drawn, learns from all their costs, and the nearest one is
trained; before the first step it learns the costs alone for a while. The generator ends with the run: for good members
of a cost afterwards, search.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from ...technique import Paper, Recipe, Turn
from ._fields import check_counts, check_positive, check_shares
from ._generator import Architect
from ._learning import learn_led
from ._levels import Levels

_ODDS, _WINDOW, _BEFORE, _CHANGES, _GENERATOR = "odds", "window", "before", "changes", "generator"
_PROPOSALS = 8  # members that the generator proposes in each step


@dataclass(frozen=True)
class ShiftNas(Recipe):
    """Train one member per step, of a cost that is drawn from shifting probabilities, given by a learnt generator.

    Attributes:
        levels: how many levels the range of multiply-accumulates is cut into.
        window: how many steps lie between two shifts of the probabilities.
        sharpness: how strongly differences in variation shift them; 0 keeps them even.
        even: how much of them is even, so that no level is forgotten.
        ahead: how many steps the generator learns costs before the first training step.
        merit: the weight of the trained member's loss in what the generator learns, its costs' weighing 1.
        lead: how much of a member's loss is distillation from the run's own teacher, where it has one.
    """

    levels: int = 5
    window: int = 50
    sharpness: float = 1.0
    even: float = 0.2
    ahead: int = 150
    merit: float = 0.01
    lead: float = 0.5

    paper: ClassVar[Paper | None] = Paper(
        "Zhang, Yu, Zhao, Ou", 2023, "ShiftNAS: Improving One-shot NAS via Probability Shift", "2307.08300"
    )
    gives: ClassVar[frozenset[str]] = frozenset({"trained members"})

    def __post_init__(self) -> None:
        """Check the fields."""
        check_counts(self, 1, "levels", "window")
        check_counts(self, 0, "ahead")
        check_shares(self, "even", "lead")
        for name in ("sharpness", "merit"):
            if getattr(self, name) != 0:
                check_positive(self, name)

    def step(self, turn: Turn) -> None:
        """Let one member learn, then the generator, and now and then shift the probabilities."""
        levels = Levels.of(turn.space, turn.macs, self.levels)
        if levels.width == 0:  # nothing to shift between
            learn_led(turn, turn.space.sample(turn.rng), self.lead)
            return
        memory, first = turn.memory, _ODDS not in turn.memory
        if first:
            memory.update(
                {_ODDS: [1 / levels.count] * levels.count, _WINDOW: {}, _BEFORE: {}, _CHANGES: {}, _GENERATOR: {}}
            )
        architect = Architect(turn.space, turn.macs, memory[_GENERATOR], turn.rng)
        if first:
            for _ in range(self.ahead):
                wanted = [turn.rng.uniform(levels.low, levels.high) for _ in range(_PROPOSALS)]
                architect.learn(architect.propose(wanted)[1].mean(), 0.01)
        level = turn.rng.choices(range(levels.count), memory[_ODDS])[0]
        wanted = turn.rng.uniform(*levels.bounds(level))
        configs, misses, logs = architect.propose([wanted] * _PROPOSALS)
        at = int(misses.detach().argmin())
        learn_led(turn, configs[at], self.lead)
        turn.update()  # from here on the loss is that of all processes
        loss = turn.losses[configs[at]]
        # Of its own level, which is the drawn one but for the generator's misses.
        seen = memory[_WINDOW].setdefault(str(levels.level(turn.macs(configs[at]))), [])
        surplus = loss - sum(seen) / len(seen) if seen else 0.0
        seen.append(loss)
        architect.learn(misses.mean() + self.merit * surplus * logs[at], 0.003)
        if (turn.step + 1) % self.window == 0:
            changed(memory[_CHANGES], memory[_BEFORE], memory[_WINDOW])
            memory[_ODDS] = self.shifted(memory[_CHANGES], levels.count)
            memory[_BEFORE] = memory[_BEFORE] | memory[_WINDOW]
            memory[_WINDOW] = {}

    def shifted(self, changes: Mapping[str, float], count: int) -> list[float]:
        """Return the probabilities of ``count`` levels, given the last change of each by level.

        A level of which no change is known counts as changing as much as the one that changes most.
        """
        most = max(changes.values(), default=0.0)
        full = [changes.get(str(level), most) for level in range(count)]
        mean = sum(full) / count
        odds = [math.exp(self.sharpness * (change - most) / mean) if mean else 1.0 for change in full]
        return [self.even / count + (1 - self.even) * each / sum(odds) for each in odds]


def changed(changes: dict[str, float], before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Put into ``changes`` how much the mean of each level's losses changed, as a share, where both are known."""
    for level in set(before) & set(now):
        was, is_now = sum(before[level]) / len(before[level]), sum(now[level]) / len(now[level])
        changes[level] = abs(was - is_now) / max(abs(was), 1e-12)
