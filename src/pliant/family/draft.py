"""A draft: a member while techniques still decide what it is."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from torch import nn

from ..graph.analysis import Analysis
from ..graph.slicing import Slicing
from .maps import WeightMap

Edit = Callable[[nn.Module], None]


class Draft:
    """Collects what the techniques of a config want, stage by stage; the family then builds the member from it.

    ``analysis`` is what the technique at work may see: the part of the network where it was placed. ``extra`` holds the
    parameters that techniques have added to the family, by name. ``modules`` is false where the member will be a graph
    of operations, whose arguments (a padding, a stride) no edit can change.
    """

    def __init__(
        self, analysis: Analysis, extra: Mapping[str, nn.Parameter] | None = None, modules: bool = True
    ) -> None:
        self.analysis = self._whole = analysis
        self.modules = modules
        self.extra = extra or {}
        self.maps: dict[str, list[WeightMap]] = {}
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

    def map(self, weight: str, function: WeightMap, first: bool = False) -> None:
        """Let the member compute ``weight`` (a canonical name) from what stays of it after slicing.

        ``function`` may use the family's extra parameters (``draft.extra``): gradients reach them through it. It comes
        after those that were given before, or ``first``.
        """
        rows = self.maps.setdefault(weight, [])
        rows.insert(0 if first else len(rows), function)

    @property
    def changes(self) -> bool:
        """Whether the member is more than a slice of the full network."""
        return bool(self.edits or self.maps)

    def slicing(self) -> Slicing:
        """Return what stays, as decided so far."""
        return Slicing(self._whole, self._keep, tuple(self._drop))
