"""A slicing: the units that stay on each axis and the blocks that go, and what it means for sizes and tensors."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from ..checks import WrongShapeError
from .analysis import Analysis
from .dims import Dim
from .nouns import Axis, Block

# What stays of one dimension: everything, a range (a view of the tensor), or a list of places (a gather).
Pick = None | slice | np.ndarray
_ZERO = torch.zeros(())
Kept = tuple[int, int] | bytes | None  # the same, to compare


class Slicing:
    """Which units of each axis stay, and which blocks are left out.

    Args:
        analysis: the analysis of the full network.
        keep: axis name to a number of units (the first ones stay) or to the indices that stay, in their new order.
        drop: names of blocks to leave out.

    Raises:
        UnknownNameError: an axis or block that the analysis does not have.
        WrongShapeError: a number of units below 1 or above the axis' size, or indices out of range or repeated.
    """

    def __init__(
        self,
        analysis: Analysis,
        keep: Mapping[str, int | Sequence[int]] | None = None,
        drop: Iterable[str] = (),
    ) -> None:
        self.analysis = analysis
        self.dropped: tuple[Block, ...] = tuple(analysis.block(name) for name in drop)
        self._picks: dict[Dim, Pick] = {}
        self._sizes: dict[Dim, int] = {}
        self._keep: dict[Dim, Pick] = {}
        self._kept: dict[Dim, Kept] = {}
        for name, units in (keep or {}).items():
            axis = analysis.axis(name)
            atom, pick = axis.atom.root(), _pick(axis, units)
            self._keep[atom] = pick
            self._kept[atom] = kept(pick)

    @property
    def whole(self) -> bool:
        """True where nothing is cut and nothing is left out."""
        return not self.dropped and all(pick is None for pick in self._keep.values())

    def kept(self, atoms: Iterable[Dim]) -> Iterator[Kept]:
        """Yield for each atom what stays of it: equal where the same stays."""
        return map(self._kept.get, atoms)

    def size(self, dim: Dim) -> int:
        """Return the new size of a dimension."""
        dim = dim.root()
        found = self._sizes.get(dim)
        if found is None:
            if dim.kind == "atom":
                found = _count(self._keep.get(dim), dim.size)
            elif dim.kind == "product":
                found = math.prod(self.size(part) for part in dim.parts)
            else:
                found = sum(self.size(part) for part in dim.parts)
            self._sizes[dim] = found
        return found

    def pick(self, dim: Dim) -> Pick:
        """Return the places of a dimension that stay."""
        dim = dim.root()
        if dim.kind == "atom":
            return self._keep.get(dim)
        if dim not in self._picks:
            self._picks[dim] = self._product(dim) if dim.kind == "product" else self._concat(dim)
        return self._picks[dim]

    def _product(self, dim: Dim) -> Pick:
        picks = [self.pick(part) for part in dim.parts]
        if all(pick is None for pick in picks):
            return None
        if (
            picks[0] is not None
            and all(pick is None for pick in picks[1:])
            and isinstance(picks[0], slice)
            and picks[0].start == 0
        ):
            inner = dim.size // dim.parts[0].root().size
            return slice(0, picks[0].stop * inner)
        places = np.zeros(1, dtype=np.int64)
        for part, pick in zip(dim.parts, picks, strict=True):
            size = part.root().size
            places = (places[:, None] * size + _places(pick, size)[None]).reshape(-1)
        return _tidy(places)

    def _concat(self, dim: Dim) -> Pick:
        picks = [self.pick(part) for part in dim.parts]
        if all(pick is None for pick in picks):
            return None
        offsets = np.cumsum([0, *(part.root().size for part in dim.parts)])
        parts = [_places(p, d.root().size) + o for p, d, o in zip(picks, dim.parts, offsets, strict=False)]
        return _tidy(np.concatenate(parts))

    def picks(self, tensor: str) -> tuple[Pick, ...]:
        """Return one pick per dimension of a parameter, buffer or constant (canonical name)."""
        dims = self.analysis.trace.parameters.get(tensor)
        return tuple(self.pick(dim) for dim in dims) if dims is not None else ()

    def sized(self, tensor: str, value: Tensor) -> Tensor:
        """Return a tensor of zeros as large as what stays of ``value``, which takes no memory."""
        dims = self.analysis.trace.parameters.get(tensor)
        return _ZERO.expand(value.shape if dims is None else tuple(map(self.size, dims)))

    def cut(self, tensor: str, value: Tensor) -> Tensor:
        """Return what stays of ``value``: a view where every pick is a range, a copy otherwise."""
        return take(value, self.picks(tensor))


def kept(pick: Pick) -> Kept:
    """Return what two picks have in common that leave the same."""
    if isinstance(pick, slice):
        return pick.start, pick.stop
    return None if pick is None else np.asarray(pick, np.int64).tobytes()


def take(value: Tensor, picks: Sequence[Pick]) -> Tensor:
    """Take the picked places of every dimension; ranges give views, lists of places give copies."""
    for dim, pick in enumerate(picks):
        if isinstance(pick, slice):
            value = value.narrow(dim, pick.start, pick.stop - pick.start)
    for dim, pick in enumerate(picks):
        if isinstance(pick, np.ndarray):
            value = value.index_select(dim, torch.from_numpy(pick).to(value.device))
    return value


def _pick(axis: Axis, units: int | Sequence[int]) -> Pick:
    if isinstance(units, (int, np.integer)):
        if not 1 <= units <= axis.size:
            raise WrongShapeError(
                f"axis {axis.name!r} has {axis.size} units; asked to keep {units}: give 1 to {axis.size}"
            )
        return None if units == axis.size else slice(0, int(units))
    places = np.asarray(units, dtype=np.int64).reshape(-1)
    if not len(places) or places.min() < 0 or places.max() >= axis.size or len(np.unique(places)) != len(places):
        raise WrongShapeError(
            f"axis {axis.name!r} has {axis.size} units; the indices to keep must be distinct, "
            f"0 to {axis.size - 1}, at least one; got {places.tolist()[:8]}{' …' if len(places) > 8 else ''}"
        )
    tidy = _tidy(places)
    return None if isinstance(tidy, slice) and tidy == slice(0, axis.size) else tidy


def _tidy(places: np.ndarray) -> Pick:
    """Turn consecutive places into a range, which is a view."""
    first = int(places[0])
    if int(places[-1]) - first == len(places) - 1 and bool((np.diff(places) == 1).all()):
        return slice(first, first + len(places))
    return places


def _places(pick: Pick, size: int) -> np.ndarray:
    if pick is None:
        return np.arange(size)
    return np.arange(pick.start, pick.stop) if isinstance(pick, slice) else pick


def _count(pick: Pick, size: int) -> int:
    if pick is None:
        return size
    return pick.stop - pick.start if isinstance(pick, slice) else len(pick)
