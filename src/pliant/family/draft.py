"""A draft: a member while techniques still decide what it is."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from torch import nn

from ..graph.analysis import Analysis
from ..graph.slicing import Slicing

Edit = Callable[[nn.Module], None]


class Draft:
    """Collects what the techniques of a config want, stage by stage; the family then builds the member from it.

    ``analysis`` is what the technique at work may see: the part of the network where it was placed.
    """

    def __init__(self, analysis: Analysis) -> None:
        self.analysis = self._whole = analysis
        self._keep: dict[str, int | Sequence[int]] = {}
        self._drop: dict[str, None] = {}
        self.edits: list[Edit] = []

    def keep(self, axis: str, units: int | Sequence[int]) -> None:
        """Keep the first ``units`` of an axis, or the units with the given indices."""
        self._keep[axis] = units

    def drop(self, block: str) -> None:
        """Leave a block out."""
        self._drop[block] = None

    @property
    def kept(self) -> Mapping[str, int | Sequence[int]]:
        """What stays of each axis, as decided so far."""
        return self._keep

    @property
    def dropped(self) -> tuple[str, ...]:
        """The blocks that are left out, as decided so far."""
        return tuple(self._drop)

    def then(self, edit: Edit) -> None:
        """Change the built network by ``edit``, after slicing, in the order of the stages."""
        self.edits.append(edit)

    def slicing(self) -> Slicing:
        """Return what stays, as decided so far."""
        return Slicing(self._whole, self._keep, tuple(self._drop))
