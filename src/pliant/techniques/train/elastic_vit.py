"""ElasticViT's conflict-aware sampling: members that learn one after another cost alike, and good ones learn more.

Members of very different sizes pull shared weights in different directions. So the range of costs is cut into levels,
and a random walk goes by at most one level per step; all members of a step are of its level (complexity-aware
sampling). In the stead of one smallest member there are several, one for each part of the range. Every level has a
memory bank of its best members: with some probability one is drawn from there, those of lower loss more likely;
otherwise several are drawn from the level, and the one that is wide rather than deep, against an anchor, is preferred
(performance-aware sampling). The smallest member of the part learns from what the others of the step gave on average.
The largest is not trained in particular. The paper's claim: with it a family of mobile transformers from 60M to 800M
FLOPs reaches 67.2 to 80.0 % on ImageNet without further training.

This implementation differs from the authors' code: costs are shares of the largest member's multiply-accumulates, the
levels cover the whole range, and members of a level are found by a random approach in place of a list made in advance;
the smallest member of a part is that of the members whose choices shrink in step; a bank's losses are those of the
steps in which its members last learnt, where the authors evaluate whole banks now and then; the level's members share
one optimizer step and the smallest has its own, where all share one; the preference compares all
that is not depth with depth, where the authors compare the channels of the transformer stages; it and the bank's share
do not change during the run. The latency-constrained evolution that follows is any search over the family.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fnmatch import fnmatchcase
from random import Random
from typing import Any, ClassVar

from ...space.config import Config
from ...technique import Paper, Recipe, Turn
from ._fields import check_counts, check_shares
from ._learning import learn_led
from ._levels import Levels, draw_between
from ._mean import mean_of
from ._options import nested

_WALK, _BANKS, _KNOWN = "level", "banks", "known"
_CANDIDATES = 5  # how many members are compared by the preference, as in the authors' code


@dataclass(frozen=True)
class ElasticVit(Recipe):
    """Train members of like cost step after step, good ones more often, and the smallest of their part of the range.

    Attributes:
        levels: how many levels the range of multiply-accumulates is cut into.
        members: how many members of the level learn in each step.
        parts: how many smallest members there are.
        bank: how many members each level's memory holds; it is used once half full.
        reuse: the probability of drawing from there.
        depth: a pattern of the names of the choices of depth, as file names match.
        lead: how much of the members' loss is distillation from the run's own teacher, where it has one.
    """

    levels: int = 6
    members: int = 3
    parts: int = 3
    bank: int = 20
    reuse: float = 0.2
    depth: str = "*depth"
    lead: float = 0.5

    paper: ClassVar[Paper | None] = Paper(
        "Tang, Zhang, Jiang, Xu, Cao, Zhang, Yang, Wang, Yang",
        2023,
        "ElasticViT: Conflict-aware Supernet Training for Deploying Fast Vision Transformer on Diverse Mobile Devices",
        "2303.09730",
    )
    gives: ClassVar[frozenset[str]] = frozenset({"trained members"})

    def __post_init__(self) -> None:
        """Check the fields."""
        check_counts(self, 1, "levels", "members", "parts", "bank")
        check_shares(self, "reuse", "lead")

    def step(self, turn: Turn) -> None:
        """Let members of the next level learn, and the smallest member of its part from them."""
        if turn.space.size == 1:
            learn_led(turn, turn.space.largest(), self.lead)
            return
        levels = Levels.of(turn.space, turn.macs, self.levels)
        memory = turn.memory
        if _KNOWN not in memory:
            memory[_KNOWN] = self._known(turn, levels)
            memory[_WALK], memory[_BANKS] = turn.rng.randrange(len(memory[_KNOWN])), {}
        else:
            memory[_WALK] = walk(memory[_WALK], len(memory[_KNOWN]), turn.rng)
        level, witness = memory[_KNOWN][memory[_WALK]]
        least = self.smallest(turn, levels, level)
        drawn: list[Config] = []
        seen: list[Any] = []
        for _ in range(self.members):
            config = self._draw(turn, levels, level, least) or Config.from_json(witness)
            drawn.append(config)
            seen.append(learn_led(turn, config, self.lead, weight=1 / self.members))
        turn.update()  # from here on the losses are those of all processes
        for config in drawn:
            self._remember(turn, level, config)
        turn.learn(least, teacher=mean_of(seen), share=1.0)

    def _known(self, turn: Turn, levels: Levels) -> list[list[Any]]:
        """Return the levels that have members, with one of each."""
        ends = {levels.count - 1: turn.space.largest(), 0: turn.space.smallest()}
        found: list[list[Any]] = []
        for level in range(levels.count):
            member = ends.get(level) or draw_between(turn.space, turn.macs, levels.bounds(level), turn.rng)
            if member is not None:
                found.append([level, member.to_json()])
        return found

    def smallest(self, turn: Turn, levels: Levels, level: int) -> Config:
        """Return the smallest member of the part of the range that ``level`` lies in."""
        part = level * self.parts // levels.count
        start = -(-part * levels.count // self.parts)  # the first level of the part
        edge = levels.bounds(start)[0]
        chain = nested(turn.space)
        return next((config for config in reversed(chain) if turn.macs(config) <= edge), chain[0])

    # ---- performance-aware sampling --------------------------------------------------------------------------------
    def _draw(self, turn: Turn, levels: Levels, level: int, least: Config) -> Config | None:
        bank, rng = turn.memory[_BANKS].get(str(level), []), turn.rng
        ready = 2 * len(bank) >= self.bank
        if ready and rng.random() < self.reuse:
            best = min(loss for _, loss in bank)
            return Config.from_json(rng.choices([c for c, _ in bank], [math.exp(best - loss) for _, loss in bank])[0])
        bounds, found = levels.bounds(level), []
        for _ in range(_CANDIDATES if ready else 1):
            found.append(draw_between(turn.space, turn.macs, bounds, rng, least))
        options = [config for config in found if config is not None]
        if len(options) < 2:
            return options[0] if options else None
        anchor = self._anchor(turn, level, least)
        return min(options, key=lambda config: self.depth_rather_than_width(turn, config, anchor))

    def _anchor(self, turn: Turn, level: int, least: Config) -> Config:
        lowest = turn.memory[_KNOWN][0][0]
        bank = turn.memory[_BANKS].get(str(lowest), [])
        return Config.from_json(min(bank, key=lambda row: row[1])[0]) if bank and level > lowest else least

    def depth_rather_than_width(self, turn: Turn, config: Config, anchor: Config) -> float:
        """Return how much of a member's cost comes from its depth rather than its widths, against an anchor.

        It is the cost with the anchor's widths less the cost with the anchor's depth; 0 where nothing is about depth.
        """
        deep = {name for name in config if fnmatchcase(name, self.depth)}
        if not deep:
            return 0.0
        narrow = Config({name: (config if name in deep else anchor)[name] for name in config})
        shallow = Config({name: (anchor if name in deep else config)[name] for name in config})
        return turn.macs(narrow) - turn.macs(shallow)

    def _remember(self, turn: Turn, level: int, config: Config) -> None:
        """Put a member into the level's bank: in place of itself, of nothing, or of the worst if it is better."""
        bank = turn.memory[_BANKS].setdefault(str(level), [])
        row = [config.to_json(), turn.losses[config]]
        for at, (known, _) in enumerate(bank):
            if known == row[0]:
                bank[at] = row
                return
        if len(bank) < self.bank:
            bank.append(row)
            return
        worst = max(range(len(bank)), key=lambda at: bank[at][1])
        if row[1] < bank[worst][1]:
            bank[worst] = row


def walk(at: int, count: int, rng: Random) -> int:
    """Return the next place of a random walk on ``count`` places: at most one step; an end is left in one of three."""
    moves = [-1 if at > 0 else 0, 0, 1 if at + 1 < count else 0]
    return at + rng.choice(moves)
