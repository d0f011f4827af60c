"""What members cost, and which configs are the same network, for thousands of configs at once.

The choices are translated into units per axis and blocks left out, the graph's terms give the costs. Everything is
checked against members that are built and measured before it is relied on; where it disagrees, it is not offered.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from random import Random
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from ..graph.costs import Costs
from ..space.config import Config
from .canonical import places
from .computed import parameter_count

if TYPE_CHECKING:
    from torch import nn

    from .family import Family

_log = logging.getLogger("pliant.family")

Measure = Callable[["nn.Module"], float]
_CHECKED = 12
_BUILT = 3


class Layout:
    """Option indices (n, choices) as units per axis (n, axes) and blocks left out (n, blocks).

    Raises:
        LookupError: a technique edits networks, or what choices do to an axis is not the choice's own doing.
    """

    def __init__(self, family: Family) -> None:
        analysis, space = family.analysis, family.space
        self._axes = {axis.name: at for at, axis in enumerate(analysis.axes)}
        self._blocks = {block.name: at for at, block in enumerate(analysis.blocks)}
        self._full = np.array([axis.size for axis in analysis.axes], dtype=np.int64)
        base = {choice.name: choice.largest for choice in space.choices}
        base.update(space.largest())
        self._sizes: list[np.ndarray] = []
        self._drops: list[np.ndarray] = []
        allowed = space.allowed()
        for choice, options in zip(space.choices, allowed, strict=True):
            rows = np.tile(self._full, (len(choice.options), 1))
            drops = np.zeros((len(choice.options), len(self._blocks)), dtype=bool)
            for option in options:
                rows[option], drops[option] = self._of(family, {**base, choice.name: choice.options[option]})
            self._sizes.append(rows)
            self._drops.append(drops)
        # What the largest config itself cuts would be ascribed to every choice; ranges of sizes tell who decides.
        self._owned = [
            np.flatnonzero((rows[options] != rows[options[-1]]).any(axis=0))
            for rows, options in zip(self._sizes, allowed, strict=True)
        ]
        self._start, self._gone = self._of(family, base)
        rng = Random(0)
        for config in [space.smallest(), *(space.sample(rng) for _ in range(_CHECKED))]:
            sizes, dropped = self._of(family, config)
            found_sizes, found_dropped = self(space.indices([config]))
            if not (np.array_equal(found_sizes[0], sizes) and np.array_equal(found_dropped[0], dropped)):
                raise LookupError("what a choice does depends on the others")

    def _of(self, family: Family, config: Any) -> tuple[np.ndarray, np.ndarray]:
        draft = family.draft(config)
        if draft.changes:
            raise LookupError("a technique edits networks")
        sizes, dropped = self._full.copy(), np.zeros(len(self._blocks), dtype=bool)
        for axis, units in draft.kept.items():
            sizes[self._axes[axis]] = units if isinstance(units, int) else len(units)
        dropped[[self._blocks[block] for block in draft.dropped]] = True
        return sizes, dropped

    def __call__(self, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return units per axis (n, axes) and blocks left out (n, blocks)."""
        sizes = np.tile(self._start, (len(indices), 1))
        dropped = np.tile(self._gone, (len(indices), 1))
        for at, (rows, drops, owned) in enumerate(zip(self._sizes, self._drops, self._owned, strict=True)):
            sizes[:, owned] = rows[indices[:, at]][:, owned]
            dropped |= drops[indices[:, at]]
        return sizes, dropped

    def owned(self, choice: int) -> Sequence[int]:
        """Return the axes (positions) that a choice decides."""
        return [int(at) for at in self._owned[choice]]

    def drops(self, choice: int) -> bool:
        """Return whether a choice leaves out blocks."""
        return bool(self._drops[choice].any())


class Counts:
    """Costs and canonical forms of a family's configs, as functions of option indices (n, choices).

    Args:
        family: its techniques cut axes and leave out blocks, and do nothing else.

    Raises:
        LookupError: nothing certain can be said.
    """

    def __init__(self, family: Family) -> None:
        self._family, self._layout = family, Layout(family)
        self._costs: Costs | None = None
        self._tops = np.array([options[-1] for options in family.space.allowed()], dtype=np.int64)
        self._idle = self._idles()
        rng = Random(1)
        configs = [family.space.smallest(), *(family.space.sample(rng) for _ in range(_CHECKED))]
        slow = family.space.indices([family.canonical(config) for config in configs])
        if not np.array_equal(self.canonical(family.space.indices(configs)), slow):
            raise LookupError("some configs are the same network in another way")

    @classmethod
    def of(cls, family: Family) -> Counts | Literal[False]:
        """Return the counts of ``family``, ``False`` where nothing certain can be said."""
        try:
            return cls(family)
        except LookupError as reason:
            _log.info("costs are measured, not counted: %s", reason)
            return False

    def _idles(self) -> list[list[list[frozenset[int]]] | None]:
        """Return for each choice, per axis and place of a tensor, the blocks that hold it; None if it drops blocks."""
        analysis = self._family.analysis
        names = places(analysis)
        modules = [f"{block.module}." for block in analysis.blocks]
        found: list[list[list[frozenset[int]]] | None] = []
        for choice in range(len(self._family.space.choices)):
            if self._layout.drops(choice):
                found.append(None)
                continue
            axes = []
            for at in self._layout.owned(choice):
                homes = [home for tensor in analysis.axes[at].parameters for home in names.get(tensor, [tensor])]
                holders = {frozenset(i for i, m in enumerate(modules) if home.startswith(m)) for home in homes}
                axes.append(sorted(holders, key=sorted))
            found.append(axes)
        return found

    def active(self, indices: np.ndarray) -> np.ndarray:
        """Return which choices matter (n, choices): one whose axes are all inside left-out blocks does not."""
        _, dropped = self._layout(indices)
        found = np.ones(indices.shape, dtype=bool)
        for choice, axes in enumerate(self._idle):
            if axes is None:
                continue
            idle = np.ones(len(indices), dtype=bool)
            for holders in axes:
                for blocks in holders:
                    idle &= dropped[:, sorted(blocks)].any(axis=1)
            found[:, choice] = ~idle
        return found

    def canonical(self, indices: np.ndarray) -> np.ndarray:
        """Return the indices that stand for the same networks: choices that do not matter at their largest."""
        return np.where(self.active(indices), indices, self._tops)

    def macs(self, measure: Measure) -> Callable[[np.ndarray], np.ndarray]:
        """Return a function that gives what ``measure`` gives for multiply-accumulates, perhaps of another batch.

        Raises:
            LookupError: it would not, for some of the members that were tried.
        """
        return self._certain(lambda costs, sizes, dropped: costs.macs(sizes, dropped), measure, scaled=True)

    def params(self, measure: Measure) -> Callable[[np.ndarray], np.ndarray]:
        """Return a function that gives what ``measure`` gives for parameters. Raises as :meth:`macs`."""
        return self._certain(lambda costs, sizes, dropped: costs.params(sizes, dropped), measure, scaled=False)

    def _certain(
        self, cost: Callable[[Costs, np.ndarray, np.ndarray], np.ndarray], measure: Measure, scaled: bool
    ) -> Callable[[np.ndarray], np.ndarray]:
        if self._costs is None:
            self._costs = Costs(self._family.analysis)
        costs, space, factor = self._costs, self._family.space, 1.0

        def count(indices: np.ndarray) -> np.ndarray:
            return np.asarray(cost(costs, *self._layout(indices)) * factor)

        rng = Random(2)
        configs: list[Config] = [space.largest(), space.smallest(), *(space.sample(rng) for _ in range(_BUILT))]
        counted = count(space.indices(configs))
        for config, value in zip(configs, counted, strict=True):
            measured = measure(self._family.ready(config))
            if scaled and factor == 1.0 and config is configs[0] and value > 0:
                factor = measured / value
            if abs(value * factor - measured) > 1e-9 * max(1.0, abs(measured)):
                raise LookupError(f"{config} counts {value * factor:g}, but measures {measured:g}")
        return count


def macs_shares(family: Family) -> Callable[[Config], float]:
    """Return a function that gives a member's multiply-accumulates as a share of the largest member's, remembered.

    Where they are not known from the dimensions, its parameters' share stands for them.
    """
    seen: dict[Config, float] = {}
    try:
        layout, costs = Layout(family), Costs(family.analysis)
    except LookupError as reason:
        _log.info("parameters stand for multiply-accumulates: %s", reason)

        def count(config: Config) -> float:
            return float(parameter_count(family.member(config)))
    else:

        def count(config: Config) -> float:
            return float(costs.macs(*layout(family.space.indices([config])))[0])

    whole = count(family.space.largest())

    def share(config: Config) -> float:
        if config not in seen:
            seen[config] = count(config) / whole if whole else 1.0
        return seen[config]

    return share
