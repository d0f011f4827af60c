"""Elastic width: keep the first units of an axis, the most important ones first.

Every free axis can be cut: hidden layers, attention heads, per-head widths, residual streams. Units are sorted by
importance before training, so that a smaller width is a prefix of a larger one and shares its weights; a recipe may
sort them anew while smaller widths open. The papers' claim: one set of weights then serves all widths as well as
separate training would (Once-for-all, which sorts channels by the L1 norm of their weights, and slimmable networks
before it).

Differs from the papers: an axis is found by analysis, not written per layer type; importance is summed over every
weight that the axis cuts, in and out, each normalised by its own scale, not over the incoming weights of one layer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, ClassVar

from ...checks import WrongShapeError, unknown
from ...space.choice import Choice, Option
from ...technique import Elastic, Paper, Stage
from ._roles import roles

if TYPE_CHECKING:
    from ...family.draft import Draft
    from ...family.family import Family
    from ...graph.analysis import Analysis
    from ...graph.nouns import Axis

_KINDS = ("width", "heads", "stream", "head_width", "group")
_COUNTED = ("heads", "group")  # few units, each a lot of work: not rounded to a multiple


@dataclass(frozen=True)
class Width(Elastic):
    """Choose how many units of each axis stay.

    Attributes:
        ratios: the options as shares of the full size, in (0, 1]; 1 is always an option.
        multiple: sizes are rounded to a multiple of this (hardware likes it); heads are not rounded.
        kinds: which axes bend: ``width`` (hidden layers), ``heads``, ``head_width``, ``group`` (query heads that
            share a key head), ``stream`` (residual streams). Streams are left whole unless asked for: they reach
            further, but every weight of the network then means something else in every member, which costs accuracy.
        uniform: one choice for all layers that play the same role (equal names but for the numbers of layers, equal
            sizes), called ``layers.*.mlp.width``: what a class that is built from one configuration can express.
    """

    ratios: tuple[float, ...] = (0.25, 0.5, 0.75, 1.0)
    multiple: int = 8
    kinds: tuple[str, ...] = ("width", "heads")
    uniform: bool = False

    paper: ClassVar[Paper | None] = Paper(
        "Cai, Gan, Wang, Zhang, Han",
        2020,
        "Once-for-All: Train One Network and Specialize it for Efficient Deployment",
        "1908.09791",
    )
    stage: ClassVar[Stage | None] = Stage.SLICE
    gives: ClassVar[frozenset[str]] = frozenset({"sorted units"})

    def __post_init__(self) -> None:
        """Check the fields."""
        if not self.ratios or any(not 0 < ratio <= 1 for ratio in self.ratios):
            raise WrongShapeError(
                f"Width.ratios are shares of the full size, each above 0 and at most 1; got {self.ratios}"
            )
        for kind in self.kinds:
            if kind not in _KINDS:
                raise unknown("kind of axis", kind, _KINDS)
        if self.multiple < 1:
            raise WrongShapeError(f"Width.multiple is at least 1; got {self.multiple}")

    def choices(self, analysis: Analysis) -> Sequence[Choice]:
        """Return one choice per axis (where ``uniform``, per role) that has more than one size to choose from."""
        rows = [(name, self.sizes(axes[0])) for name, axes in self._roles(analysis).items()]
        return tuple(Choice(name, sizes) for name, sizes in rows if len(sizes) > 1)

    def _roles(self, analysis: Analysis) -> dict[str, list[Axis]]:
        """Map the name of each choice to the axes that it cuts."""
        axes = [axis for axis in analysis.axes if axis.kind in self.kinds]
        return roles(axes, lambda axis: axis.size) if self.uniform else {axis.name: [axis] for axis in axes}

    def sizes(self, axis: Axis) -> tuple[int, ...]:
        """Return the sizes to choose from, ascending, the full size last."""
        step = 1 if axis.kind in _COUNTED else self.multiple
        if axis.size <= step:
            return (axis.size,)
        found = {min(axis.size, max(step, round(ratio * axis.size / step) * step)) for ratio in self.ratios}
        return tuple(sorted(found | {axis.size}))

    def apply(self, draft: Draft, options: Mapping[str, Option]) -> None:
        """Keep the chosen number of units of each axis."""
        axes = self._roles(draft.analysis)
        for name, units in options.items():
            for axis in axes[name]:
                draft.keep(axis.name, int(units))  # type: ignore[arg-type]

    def orders(self, family: Family) -> dict[str, list[int]]:
        """Return the units of every axis that bends, the most important first."""
        found = {}
        bending = {choice.name for choice in family.space.choices}
        for axis in family.analysis.axes:
            if axis.kind not in self.kinds or not self._bends(axis, bending):
                continue
            scores = None
            for rows in family.weight_views(axis.name).values():
                share = rows.abs().sum(1)
                share = share / share.mean().clamp_min(1e-12)
                scores = share if scores is None else scores + share
            if scores is not None:
                found[axis.name] = scores.argsort(descending=True, stable=True).tolist()
        return found

    def _bends(self, axis: Axis, choices: set[str]) -> bool:
        if not self.uniform or axis.name in choices:
            return axis.name in choices
        return any(fnmatchcase(name, choice) for choice in choices for name in (axis.name, f"{axis.name}.{axis.size}"))
