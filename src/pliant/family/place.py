"""Where a technique applies: the caller's argument, not a field that every technique repeats."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..graph.analysis import Analysis
from ..space.choice import Choice

if TYPE_CHECKING:
    from ..technique import Elastic


@dataclass(frozen=True)
class Placed:
    """A technique and the pattern of module names where it applies (``*`` everywhere)."""

    technique: Elastic
    where: str = "*"

    def part(self, analysis: Analysis) -> Analysis:
        """Return the part of the network that the pattern names."""
        return analysis if self.where == "*" else analysis.only(self.where)

    def choices(self, analysis: Analysis) -> Sequence[Choice]:
        """Return the technique's choices on its part of the network."""
        return self.technique.choices(self.part(analysis))

    def __str__(self) -> str:
        return f"{self.technique}" + (f" at {self.where!r}" if self.where != "*" else "")


def at(where: str, technique: Elastic) -> Placed:
    """Apply ``technique`` only to axes, blocks and sites whose name matches ``where`` (``"blocks.*.mlp*"``)."""
    return Placed(technique, where)
