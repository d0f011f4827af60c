"""Copies of what is picked from a tensor, additions to it, and other values in its place."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from itertools import product
from math import prod
from operator import mul
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..graph.slicing import Kept, Pick, kept, take

_BLOCKS = 24  # up to which blocks are copied one by one: beyond, looking up places is quicker
_ALONE = 1 << 15  # numbers, from which torch copies with several threads
_OF_NUMPY = frozenset((torch.float32, torch.float64, torch.float16))
_Block = tuple[tuple[slice, ...], tuple[slice, ...]]  # where it lies in the copy, and where in the tensor


class _Comb(NamedTuple):
    """Runs of one length at equal distances in one dimension, ranges in the others: one strided view holds them all."""

    shape: tuple[int, ...]  # runs and places in a run are two dimensions
    starts: tuple[int, ...]
    dim: int
    distance: int

    def of(self, value: Tensor) -> Tensor:
        """Return the view of a tensor."""
        strides = value.stride()
        inner = (*strides[: self.dim], self.distance * strides[self.dim], *strides[self.dim :])
        return value.as_strided(self.shape, inner, value.storage_offset() + sum(map(mul, self.starts, strides)))


class _Layout(NamedTuple):
    """How picked places lie: one for all that pick alike, as layers and members do."""

    key: tuple[Kept, ...]
    shape: tuple[int, ...]
    comb: _Comb | None
    blocks: list[_Block]
    places: list[tuple[int, np.ndarray]]  # of the dimensions that are no ranges


class Index:
    """Takes picked places out of a tensor and adds others to them; what that needs is made once.

    Args:
        picks: what is picked of each dimension.
        shape: of the tensor.
    """

    def __init__(self, picks: Sequence[Pick], shape: Sequence[int]) -> None:
        layout = _layout(tuple(map(kept, picks)), tuple(shape))
        self.key = layout.key  # equal for all that pick the same
        self._ranges = [pick if isinstance(pick, slice) else None for pick in picks]
        self._places = [(dim, torch.from_numpy(places)) for dim, places in layout.places]
        self.shape, self._comb, self._blocks = layout.shape, layout.comb, layout.blocks
        self._small = prod(self.shape) < _ALONE
        self._views: dict[bool, tuple[object, Tensor]] = {}  # the last comb in memory: to read, to write

    @property
    def regular(self) -> bool:
        """Whether one strided view holds all that is picked, and that is little."""
        return self._comb is not None and self._small

    def strided(self, value: Tensor) -> Tensor:
        """Return that view; reshaped to :attr:`shape`, it is a copy of what is picked."""
        assert self._comb is not None
        return self._comb.of(value)

    def parts(self, value: Tensor) -> list[Tensor]:
        """Return views of a tensor that hold all that is picked; nothing else where that lies in a few blocks."""
        return [value[there] for _, there in self._blocks] or [take(value, self._ranges)]

    def take(self, value: Tensor) -> Tensor:
        """Return a copy of what is picked."""
        if self._comb is not None and self._small and type(value) is Tensor:
            return self._view(self._comb, value, False).clone(memory_format=torch.contiguous_format).view(self.shape)
        copy = torch.empty(self.shape, dtype=value.dtype) if self._blocks else None
        if copy is not None and _in_numpy(copy, value):
            if self._comb is not None:
                np.copyto(copy.view(self._comb.shape).numpy(), self._comb.of(value).numpy())
                return copy
            target, source = copy.numpy(), value.numpy()
            for here, there in self._blocks:
                target[here] = source[there]
            return copy
        value = take(value, self._ranges)
        for dim, places in self._on(value.device):
            value = value.index_select(dim, places)
        return value

    def add(self, target: Tensor, addend: Tensor) -> None:
        """Add to what is picked, in place."""
        addend = addend.detach()
        if self._comb is not None and self._small and type(target) is Tensor:
            self._view(self._comb, target, True).add_(addend.reshape(self._comb.shape))
            return
        if self._blocks and _in_numpy(target, addend):
            if self._comb is not None:
                part = self._comb.of(target).numpy()
                np.add(part, addend.reshape(self._comb.shape).numpy(), out=part)
                return
            total, own = target.numpy(), addend.numpy()
            for here, there in self._blocks:
                part = total[there]
                np.add(part, own[here], out=part)  # `total[there] += ...` would write the sum twice
            return
        target = take(target, self._ranges)
        places = self._on(target.device)
        if len(places) == 1:
            target.index_add_(*places[0], addend)
            return
        target.index_put_(torch.meshgrid(*self._each(target), indexing="ij"), addend, accumulate=True)

    def put(self, target: Tensor, value: Tensor) -> None:
        """Write over what is picked, in place."""
        if self._blocks:
            for here, there in self._blocks:
                target[there] = value[here]
            return
        target = take(target, self._ranges)
        target.index_put_(torch.meshgrid(*self._each(target), indexing="ij"), value)

    def _view(self, comb: _Comb, value: Tensor, write: bool) -> Tensor:
        """Return the comb's view of a tensor; made anew where the tensor is not where it was: that takes its time."""
        where = value.data_ptr(), value.dtype, value.stride()
        seen = self._views.get(write)
        if seen is None or seen[0] != where:
            seen = self._views[write] = where, comb.of(value)
        return seen[1]

    def _each(self, target: Tensor) -> list[Tensor]:
        """Return the places of every dimension of a tensor that is cut to the ranges already."""
        each = [torch.arange(size, device=target.device) for size in target.shape]
        for dim, places in self._on(target.device):
            each[dim] = places
        return each

    def _on(self, device: torch.device) -> list[tuple[int, Tensor]]:
        if self._places[0][1].device != device:
            self._places = [(dim, places.to(device)) for dim, places in self._places]
        return self._places


def _in_numpy(first: Tensor, second: Tensor) -> bool:
    """NumPy copies with one thread: for copies as small as these, torch's threads take longer to wake."""
    return (
        type(first) is Tensor  # not one that a tracer stands in for
        and type(second) is Tensor
        and first.is_cpu
        and second.is_cpu
        and first.dtype in _OF_NUMPY
        and second.dtype in _OF_NUMPY
    )


def _comb(runs: Sequence[list[tuple[slice, slice]]]) -> _Comb | None:
    dims = [dim for dim, each in enumerate(runs) if len(each) > 1]
    if len(dims) != 1:
        return None
    starts = [there.start for _, there in runs[dims[0]]]
    lengths = {there.stop - there.start for _, there in runs[dims[0]]}
    distances = set(np.diff(starts).tolist())
    if len(lengths) != 1 or len(distances) != 1 or min(distances) < max(lengths):  # it would run back, or overlap
        return None
    shape = [each[-1][0].stop for each in runs]
    shape[dims[0] : dims[0] + 1] = [len(starts), *lengths]
    return _Comb(tuple(shape), tuple(each[0][1].start for each in runs), dims[0], *distances)


@lru_cache(maxsize=1024)
def _layout(key: tuple[Kept, ...], sizes: tuple[int, ...]) -> _Layout:
    """Return the shape of a copy, and how it lies in the tensor."""
    picks = [np.frombuffer(bytearray(k), np.int64) if isinstance(k, bytes) else slice(*k) if k else None for k in key]
    runs = [_runs(pick, size) for pick, size in zip(picks, sizes, strict=True)]
    blocks: list[_Block] = []
    if prod(map(len, runs)) <= _BLOCKS:
        for block in product(*runs):
            blocks.append((tuple(here for here, _ in block), tuple(there for _, there in block)))
    places = [(dim, pick) for dim, pick in enumerate(picks) if isinstance(pick, np.ndarray)]
    return _Layout(key, tuple(each[-1][0].stop for each in runs), _comb(runs), blocks, places)


def _runs(pick: Pick, size: int) -> list[tuple[slice, slice]]:
    """Return the runs of consecutive places of a pick: where each lies in the copy, and where in the tensor."""
    if pick is None:
        return [(slice(0, size), slice(0, size))]
    if isinstance(pick, slice):
        return [(slice(0, pick.stop - pick.start), pick)]
    ends = [0, *(np.flatnonzero(np.diff(pick) != 1) + 1).tolist(), len(pick)]
    starts = [int(pick[first]) for first in ends[:-1]]
    return [
        (slice(first, last), slice(start, start + last - first))
        for first, last, start in zip(ends[:-1], ends[1:], starts, strict=True)
    ]
