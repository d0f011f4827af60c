"""What stays of a tensor and how to take it out, worked out once for all members that keep the same of it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from torch import Tensor

from ..graph.analysis import Analysis
from ..graph.dims import Dim, atoms
from ..graph.slicing import Pick, Slicing
from .indexing import Index

_MOST = 1 << 14  # cuts that are remembered


class Cut:
    """What stays of one tensor.

    Args:
        picks: of each of its dimensions.
        shape: of the tensor.
    """

    __slots__ = ("_ranges", "_shape", "_starts", "index")

    def __init__(self, picks: Sequence[Pick], shape: Sequence[int]) -> None:
        gathers = any(isinstance(pick, np.ndarray) for pick in picks)
        self.index = Index(picks, shape) if gathers else None  # of what is no range in every dimension
        self._ranges = [(at, p.start, p.stop - p.start) for at, p in enumerate(picks) if isinstance(p, slice)]
        self._starts = [(at, start) for at, start, _ in self._ranges if start]
        left = {at: length for at, _, length in self._ranges}
        self._shape = tuple(left.get(at, size) for at, size in enumerate(shape))

    @property
    def whole(self) -> bool:
        """Whether all of it stays."""
        return not self._ranges and self.index is None

    def view(self, value: Tensor) -> Tensor:
        """Return the range in each dimension, where it is one."""
        if not self._ranges:
            return value
        if type(value) is Tensor:  # in one step: one for each dimension takes longer, and this is done very often
            strides, start = value.stride(), value.storage_offset()
            for dim, first in self._starts:
                start += first * strides[dim]
            return value.as_strided(self._shape, strides, start)
        for dim, first, length in self._ranges:
            value = value.narrow(dim, first, length)
        return value

    def take(self, value: Tensor) -> Tensor:
        """Return what stays: a view, or a copy where it is no range in every dimension."""
        return self.view(value) if self.index is None else self.index.take(value)


class Cuts:
    """The cuts of a family's tensors.

    Args:
        analysis: of the full network.
    """

    def __init__(self, analysis: Analysis) -> None:
        self._dims = analysis.trace.parameters
        self._atoms: dict[str, tuple[Dim, ...]] = {}
        self._cuts: dict[tuple[object, ...], Cut] = {}

    def of(self, name: str, slicing: Slicing, shape: Sequence[int]) -> Cut:
        """Return what a slicing leaves of the tensor with this canonical name and shape."""
        free = self._atoms.get(name)
        if free is None:
            free = self._atoms[name] = tuple({a: None for dim in self._dims.get(name, ()) for a in atoms(dim)})
        key = (name, *slicing.kept(free))
        found = self._cuts.get(key)
        if found is None:
            if len(self._cuts) >= _MOST:
                self._cuts.clear()
            found = self._cuts[key] = Cut(slicing.picks(name), shape)
        return found
