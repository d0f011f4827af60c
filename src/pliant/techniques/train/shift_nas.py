"""ShiftNAS: what members cost is drawn first, from probabilities that shift to where training still changes much.

Drawn evenly, most members cost about the middle of the range, and the ends are trained too little. So the range of
costs is cut into levels; in every step a level is drawn, and a generator, a small recurrent network, gives a member
that costs what the level asks for. How far a level is from being trained is told by the gradient of its members' loss
on samples that they did not learn from: where that is near zero, there is nothing left to gain. The probabilities are
learnt by gradients, so that they shift to the levels that need training (probability shift). The generator learns
along: from how far its members' costs are from those wanted, and from their losses, so that it gives good members of a
cost. The paper's claim: members of all costs get better, without more training, for convolutional networks and
transformers alike.

This implementation differs. The paper's code was not published; beyond the abstract the method is known from accounts
by others. By these the probabilities are a vector that is learnt, in every 100th step and only after the first epochs,
such that the expected gradient of the validation loss gets smallest, by a Gumbel softmax through the generator and by
finite differences instead of second derivatives. Here a level's gradient is also told by a finite difference, the share
of the loss on one half of a batch that an optimizer step on the other half takes away; the vector is moved along the
gradient of the logarithm of its expectation, and what is drawn is mixed with even probabilities. The paper's generator
gets the gradient of the task's loss through masks on the shared weights; members here are networks of their own that
know no mask, so that it gets the score function's gradient of the loss instead (REINFORCE, with the level's mean loss
as baseline), while the cost's gradient goes straight through its choices, as in the paper. In every step it proposes
several members for the cost that was drawn, learns from all their costs, and the nearest one is trained; before the
first step it learns the costs alone for a while. Levels are as many equal parts of the range, not of 0.1 GFLOPs each.
The generator ends with the run: for good members of a cost afterwards, search.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from ...technique import Paper, Recipe, Turn
from ._fields import check_counts, check_positive, check_shares
from ._generator import Architect
from ._learning import learn_led
from ._levels import Levels

_LOGITS, _LOSSES, _GENERATOR = "logits", "losses", "generator"
_PROPOSALS = 8  # members that the generator proposes in each step
_STILL = 0.1  # the share of the steps before the probabilities shift


@dataclass(frozen=True)
class ShiftNas(Recipe):
    """Train one member per step, of a cost that is drawn from shifting probabilities, given by a learnt generator.

    Attributes:
        levels: how many levels the range of multiply-accumulates is cut into.
        window: how many steps lie between two shifts of the probabilities.
        sharpness: how far one shift goes along the gradient; 0 keeps them even.
        even: how much of them is even, so that no level is forgotten.
        ahead: how many steps the generator learns costs before the first training step.
        merit: the weight of the trained member's loss in what the generator learns, its costs' weighing 1.
        lead: how much of a member's loss is distillation from the run's own teacher, where it has one.
    """

    levels: int = 5
    window: int = 100
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
        memory, first = turn.memory, _LOGITS not in turn.memory
        if first:
            memory.update({_LOGITS: [0.0] * levels.count, _LOSSES: {}, _GENERATOR: {}})
        architect = Architect(turn.space, turn.macs, memory[_GENERATOR], turn.rng)
        if first:
            for _ in range(self.ahead):
                wanted = [turn.rng.uniform(levels.low, levels.high) for _ in range(_PROPOSALS)]
                architect.learn(architect.propose(wanted)[1].mean(), 0.01)
        level = turn.rng.choices(range(levels.count), self.odds(memory[_LOGITS]))[0]
        wanted = turn.rng.uniform(*levels.bounds(level))
        configs, misses, logs = architect.propose([wanted] * _PROPOSALS)
        at = int(misses.detach().argmin())
        learn_led(turn, configs[at], self.lead)
        turn.update()  # from here on the loss is that of all processes
        loss = turn.losses[configs[at]]
        # Of its own level, which is the drawn one but for the generator's misses.
        seen = memory[_LOSSES].setdefault(str(levels.level(turn.macs(configs[at]))), [])
        surplus = loss - sum(seen) / len(seen) if seen else 0.0
        seen.append(loss)
        architect.learn(misses.mean() + self.merit * surplus * logs[at], 0.003)
        if (turn.step + 1) % self.window == 0:
            memory[_LOSSES] = {}
            if self.sharpness and turn.step + 1 >= _STILL * turn.steps:
                memory[_LOGITS] = self.shifted(memory[_LOGITS], self._variations(turn, levels, architect))

    def _variations(self, turn: Turn, levels: Levels, architect: Architect) -> list[float]:
        """Return for each level the share of a member's loss that one step on other samples takes away."""
        found = []
        for level in range(levels.count):
            configs, misses, _ = architect.propose([sum(levels.bounds(level)) / 2] * _PROPOSALS)
            config = configs[int(misses.detach().argmin())]
            before, after = turn.foresee(config, 0.0), turn.foresee(config)
            found.append(max(0.0, (before - after) / before) if before > 0 and math.isfinite(before) else 0.0)
        return found

    def odds(self, logits: Sequence[float]) -> list[float]:
        """Return the probabilities of the levels."""
        raw = _softmax(logits)
        return [self.even / len(raw) + (1 - self.even) * each for each in raw]

    def shifted(self, logits: Sequence[float], variations: Sequence[float]) -> list[float]:
        """Return the logits after a step along the gradient of the logarithm of the expected variation."""
        raw = _softmax(logits)
        mean = sum(p * v for p, v in zip(raw, variations, strict=True))
        if mean <= 0:
            return list(logits)
        rows = zip(logits, raw, variations, strict=True)
        return [logit + self.sharpness * p * (variation - mean) / mean for logit, p, variation in rows]


def _softmax(logits: Sequence[float]) -> list[float]:
    raw = [math.exp(logit - max(logits)) for logit in logits]
    return [each / sum(raw) for each in raw]
