"""Where a technique applies: the caller's argument, not a field that every technique repeats."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ..graph.analysis import Analysis
from ..space.choice import Choice, Option

if TYPE_CHECKING:
    from ..technique import Elastic


@dataclass(frozen=True)
class Placed:
    """A technique and the pattern of module names where it applies (``*`` everywhere).

    ``few`` holds the options that are left of choices by name; of a choice that is not there, all.
    """

    technique: Elastic
    where: str = "*"
    few: tuple[tuple[str, tuple[Option, ...]], ...] = ()

    def part(self, analysis: Analysis) -> Analysis:
        """Return the part of the network that the pattern names."""
        return analysis if self.where == "*" else analysis.only(self.where)

    def choices(self, analysis: Analysis) -> Sequence[Choice]:
        """Return the technique's choices on its part of the network."""
        few = dict(self.few)
        offered = self.technique.choices(self.part(analysis))
        return [replace(c, options=few[c.name]) if c.name in few else c for c in offered] if few else offered

    def __str__(self) -> str:
        return f"{self.technique}" + (f" at {self.where!r}" if self.where != "*" else "")


def at(where: str, technique: Elastic) -> Placed:
    """Apply ``technique`` only to axes, blocks and sites whose name matches ``where`` (``"blocks.*.mlp*"``)."""
    return Placed(technique, where)
