"""Elastic depth: leave out residual blocks.

A run of blocks (the layers of a transformer, the equal blocks of a stage) gets one choice that counts the blocks that
stay, with an order of removal that makes shallower members nested in deeper ones; or one choice per block. The paper's
claim: networks of all depths share one set of weights when the first blocks of each stage are kept.

Differs from the paper: blocks are found from the residual paths of any network; the order can be chosen.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from ...checks import WrongShapeError, unknown
from ...space.choice import Choice, Option
from ...technique import Elastic, Paper, Stage

if TYPE_CHECKING:
    from ...family.draft import Draft
    from ...graph.analysis import Analysis
    from ...graph.nouns import Block


@dataclass(frozen=True)
class Depth(Elastic):
    """Choose how many residual blocks of each run stay, or which.

    Attributes:
        least: the share of a run's blocks that always stays, in [0, 1].
        order: which blocks go first: ``last``, ``first``, ``spread`` (every second, then the rest), or block names.
        per_block: offer one choice per block (stay or go) instead of one per run.
    """

    least: float = 0.5
    order: str | tuple[str, ...] = "last"
    per_block: bool = False

    paper: ClassVar[Paper | None] = Paper(
        "Cai, Gan, Wang, Zhang, Han",
        2020,
        "Once-for-All: Train One Network and Specialize it for Efficient Deployment",
        "1908.09791",
    )
    stage: ClassVar[Stage | None] = Stage.DROP

    def __post_init__(self) -> None:
        """Check the fields."""
        if not 0 <= self.least <= 1:
            raise WrongShapeError(f"Depth.least is a share of the blocks, from 0 to 1; got {self.least}")
        if isinstance(self.order, str) and self.order not in ("last", "first", "spread"):
            raise unknown("order of removal", self.order, ("last", "first", "spread"))

    def choices(self, analysis: Analysis) -> Sequence[Choice]:
        """Return one choice per run of blocks, or per block.

        Raises:
            UnknownNameError: the order names a block that is not there.
        """
        if not isinstance(self.order, str):
            for name in self.order:
                analysis.block(name)
        if self.per_block:
            return tuple(Choice(f"{block.name}.keep", (False, True)) for block in analysis.blocks)
        found = []
        for run, blocks in _runs(analysis).items():
            least = math.floor(self.least * len(blocks))
            if least < len(blocks):
                found.append(Choice(f"{run}.depth" if run else "depth", tuple(range(least, len(blocks) + 1))))
        return tuple(found)

    def apply(self, draft: Draft, options: Mapping[str, Option]) -> None:
        """Drop the blocks that the options leave out."""
        runs = _runs(draft.analysis)
        for name, option in options.items():
            target, _, what = name.rpartition(".")
            if what == "keep":
                if not option:
                    draft.drop(target)
                continue
            blocks = runs[target]
            for block in self.removal(blocks)[: len(blocks) - int(option)]:  # type: ignore[arg-type]
                draft.drop(block)

    def removal(self, blocks: Sequence[Block]) -> list[str]:
        """Return the names of a run's blocks, the first to be removed first."""
        names = [block.name for block in blocks]
        if self.order == "last":
            return names[::-1]
        if self.order == "first":
            return names
        if self.order == "spread":
            return names[1::2] + names[0::2]
        chosen = [name for name in self.order if name in names]
        return chosen + [name for name in reversed(names) if name not in chosen]


def _runs(analysis: Analysis) -> dict[str, list[Block]]:
    runs: dict[str, list[Block]] = {}
    for block in analysis.blocks:
        runs.setdefault(block.run, []).append(block)
    return runs
