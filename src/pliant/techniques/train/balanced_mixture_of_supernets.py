"""Balanced mixture of supernets: members are spread over copies of the weights by how well each copy serves them.

For each configuration and copy there is a running average of how good that pair has been. Steps draw a configuration
evenly and a copy by these scores; the more a copy is worth to a configuration, the more often it trains there. Were
that all, one copy would soon serve everyone. So the odds are balanced: scaled until every copy is drawn as often as any
other, while those of each configuration still sum to one. The paper's claim: this ranks the positions of pooling in
ResNets well where one supernet cannot.

This implementation differs. Scores are the losses of the steps themselves, the paper's the accuracies on validation
batches, one after each step: a recipe has no others. Sharpness rises evenly from 0 over the run (the paper's schedule
is not known to us), and where copies are as many as configurations each gets its own, with nothing to learn. The paper
is about where to pool; a family has no choice of that, so configurations here are those of any choices: name them with
``pattern``, as each has a row of scores. The choice of the copy comes from another technique of the same paper. The
account is from the abstract and a reading of the authors' code.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, ClassVar

import torch
from torch import Tensor

from ...checks import PliantError, UnknownNameError, WrongShapeError
from ...space.config import Config
from ...space.space import Space
from ...technique import Paper, Recipe, Turn
from ._fields import check_counts, check_positive, check_shares
from ._learning import learn_led
from ._options import Options, allowed_options

_SCORES, _SEEN, _ODDS = "scores", "seen", "odds"
_MOST = 4096
_ROUNDS = 1000


@dataclass(frozen=True)
class BalancedMixtureOfSupernets(Recipe):
    """Train one member per step, in a copy of the weights drawn by balanced odds that are learnt.

    Attributes:
        choice: the choice of the copy; where the family has none, all members share and nothing is learnt.
        pattern: which other choices decide about the copy, as file names match.
        sharpness: what scores are multiplied by at the end of the run; 0 at its beginning.
        decay: of the running averages of losses.
        every: in how many steps odds are computed anew.
        lead: how much of the loss is distillation from the run's own teacher, where it has one.
    """

    choice: str = "copy"
    pattern: str = "*"
    sharpness: float = 20.0
    decay: float = 0.9
    every: int = 20
    lead: float = 0.5

    paper: ClassVar[Paper | None] = Paper(
        "Javan, Toews, Pedersoli",
        2023,
        "Balanced Mixture of SuperNets for Learning the CNN Pooling Architecture",
        "2306.11982",
    )
    gives: ClassVar[frozenset[str]] = frozenset({"trained members"})

    def __post_init__(self) -> None:
        """Check the fields."""
        check_positive(self, "sharpness")
        check_shares(self, "decay", "lead")
        check_counts(self, 1, "every")

    def step(self, turn: Turn) -> None:
        """Let one member learn in one copy, and remember how it did."""
        config = turn.space.sample(turn.rng)
        options = allowed_options(turn.space)
        if len(options.get(self.choice, ())) < 2:
            learn_led(turn, config, self.lead)
            return
        rows = self._rows(options)
        row = _index(rows, config)
        odds = self._odds(turn, math.prod(map(len, rows.values())), len(options[self.choice]))
        at = turn.rng.choices(range(odds.shape[1]), odds[row].tolist())[0]
        config = Config({**config, self.choice: options[self.choice][at]})
        learn_led(turn, config, self.lead)
        self._remember(turn.memory, row, at, -turn.losses[config])

    def _rows(self, options: Options) -> dict[str, tuple[Any, ...]]:
        """Return the choices that decide about the copy, with their options.

        Raises:
            WrongShapeError: they have more configurations than can have scores of their own.
        """
        rows = {n: few for n, few in options.items() if n != self.choice and fnmatchcase(n, self.pattern)}
        if (count := math.prod(map(len, rows.values()))) > _MOST:
            raise WrongShapeError(
                f"the choices that match {self.pattern!r} have {count} configurations, each with scores of its own; "
                f"name fewer by BalancedMixtureOfSupernets.pattern, for at most {_MOST} (such as '*.depth')"
            )
        return rows

    def _odds(self, turn: Turn, rows: int, copies: int) -> Tensor:
        """Return the probability of each copy for each configuration (rows, copies)."""
        memory = turn.memory
        if _SCORES not in memory:
            memory[_SCORES] = torch.zeros(rows, copies, dtype=torch.float64)
            memory[_SEEN] = torch.zeros(rows, copies, dtype=torch.float64)
        if _ODDS not in memory or turn.step % self.every == 0:
            sharpness = self.sharpness * turn.step / max(1, turn.steps - 1)
            memory[_ODDS] = own(rows, copies) if copies >= rows else balanced(sharpness * memory[_SCORES])
        odds: Tensor = memory[_ODDS]
        return odds

    def _remember(self, memory: dict[str, Any], row: int, at: int, score: float) -> None:
        """Average a score in; copies that a configuration never had count as its first one."""
        scores, seen = memory[_SCORES], memory[_SEEN]
        if not seen[row].any():
            scores[row] = score
        scores[row, at] = self.decay * scores[row, at] + (1 - self.decay) * score
        seen[row, at] += 1

    def assigned(self, space: Space, memory: Mapping[str, Any], config: Mapping[str, Any]) -> Config:
        """Return a config with the copy that serves it best: the one that it was drawn with most likely.

        Args:
            space: the family's space.
            memory: what the run remembers, ``progress.memory``.
            config: a config of the space, with any copy or none.

        Raises:
            UnknownNameError: the space has no choice of the copy.
            PliantError: the memory is not of a run with this recipe and space.
        """
        options = allowed_options(space)
        if self.choice not in options:
            raise UnknownNameError(f"the space has no choice {self.choice!r}: its members share one set of weights")
        rows, odds = self._rows(options), memory.get(_ODDS)
        if odds is None or odds.shape != (math.prod(map(len, rows.values())), len(options[self.choice])):
            raise PliantError("this memory holds no odds for the space's configs; give Progress.memory of the run")
        at = int(odds[_index(rows, config)].argmax())
        return space.check({**config, self.choice: options[self.choice][at]})


def balanced(scores: Tensor) -> Tensor:
    """Return ``exp(scores)`` scaled by rows and columns: rows sum to 1, columns to an equal share each.

    The columns' factors are found in turn with the rows' (Sinkhorn and Knopp, 1967), in logarithms.

    Args:
        scores: ``(rows, columns)``, finite.
    """
    share = math.log(scores.shape[0] / scores.shape[1])
    for _ in range(_ROUNDS):
        scores = scores - scores.logsumexp(1, keepdim=True)
        gap = scores.logsumexp(0, keepdim=True) - share
        if float(gap.abs().max()) < 1e-6:
            break
        scores = scores - gap
    return (scores - scores.logsumexp(1, keepdim=True)).exp()


def own(rows: int, columns: int) -> Tensor:
    """Return the odds (rows, columns) of a column for each row, where there are as many."""
    return torch.eye(rows, columns, dtype=torch.float64)


def _index(rows: Mapping[str, tuple[Any, ...]], config: Mapping[str, Any]) -> int:
    at = 0
    for name, few in rows.items():
        at = at * len(few) + few.index(config[name])
    return at
