"""Dimension terms: what the size of a tensor's dimension is made of.

Every dimension is a :class:`Dim`: an atom, an ordered product (row-major, as ``view`` flattens), or a concatenation.
Atoms live in a union-find: operations *unify* dimensions that must change together and *refine* an atom into a product
or a concatenation when a ``view`` or a ``split`` shows its inner structure. What cannot be reconciled is *frozen* with
the reason kept: it costs compression, never correctness.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Reason:
    """Why a dimension is kept fixed: a short ``code`` to group by, the sentence for the user, and the code's place."""

    code: str
    text: str
    where: str = ""

    def __str__(self) -> str:
        return f"{self.text} ({self.where})" if self.where else self.text


class Conflict(Exception):  # noqa: N818  (it is caught and becomes a reason, never shown as an error)
    """Two structures of one dimension that cannot be reconciled."""


class Dim:
    """One dimension term; compare with ``is`` after :meth:`root`.

    ``size`` is the original size. ``reason`` is set on atoms that may not change, ``source`` on atoms whose size is
    only known when the network runs: ``(placeholder name, dimension)`` of the input that has it.
    """

    __slots__ = ("kind", "parent", "parts", "reason", "size", "source")

    def __init__(self, size: int, reason: Reason | None = None) -> None:
        self.size = size
        self.parent: Dim | None = None
        self.kind: Literal["atom", "product", "concat"] = "atom"
        self.parts: list[Dim] = []
        self.reason = reason
        self.source: tuple[str, int] | None = None

    def root(self) -> Dim:
        """Return the representative of this term's class."""
        top = self
        while top.parent is not None:
            top = top.parent
        dim = self
        while dim.parent is not None and dim.parent is not top:  # shorten the way for the next time
            dim.parent, dim = top, dim.parent
        return top

    def __repr__(self) -> str:
        top = self.root()
        if top.kind == "atom":
            return f"{top.size}{'!' if top.reason else ''}"
        return "(" + ("*" if top.kind == "product" else "+").join(map(repr, top.parts)) + ")"


def atoms(dim: Dim) -> Iterator[Dim]:
    """Yield the atoms of a term in order, repeats included."""
    dim = dim.root()
    if dim.kind == "atom":
        yield dim
        return
    for part in dim.parts:
        yield from atoms(part)


def freeze(dim: Dim, reason: Reason) -> None:
    """Keep every atom of ``dim`` at its size and order; the first reason given is the one that is kept."""
    for atom in atoms(dim):
        if atom.reason is None:
            atom.reason = reason


def flat(dim: Dim, kind: Literal["product", "concat"]) -> list[Dim]:
    """Return the factors (or segments) of ``dim`` with nested terms of the same kind opened."""
    dim = dim.root()
    if dim.kind != kind:
        return [dim]
    return [inner for part in dim.parts for inner in flat(part, kind)]


def product(parts: Sequence[Dim]) -> Dim:
    """Return the row-major product of ``parts``; factors of size 1 carry nothing and are left out."""
    real = [part.root() for part in parts if part.root().size != 1]
    if len(real) == 1:
        return real[0]
    if not real:
        return Dim(1)
    return _structured("product", real, math.prod(part.size for part in real))


def concat(parts: Sequence[Dim]) -> Dim:
    """Return the concatenation of ``parts``; empty parts are left out."""
    real = [part.root() for part in parts if part.root().size != 0]
    if len(real) == 1:
        return real[0]
    return _structured("concat", real, sum(part.size for part in real))


def _structured(kind: Literal["product", "concat"], parts: list[Dim], size: int) -> Dim:
    dim = Dim(size)
    dim.kind, dim.parts = kind, parts
    return dim


def _refine(atom: Dim, kind: Literal["product", "concat"], sizes: Sequence[int]) -> list[Dim]:
    parts = [Dim(size, atom.reason) for size in sizes]
    atom.kind, atom.parts = kind, parts
    # A batch that is split (windows, patches) is known only as a whole: its parts are then of fixed size.
    if atom.source is not None:
        atom.source = None
        for part in parts:
            part.reason = part.reason or Reason("batch", "part of the batch dimension")
    return parts


def split_product(dim: Dim, sizes: Sequence[int]) -> list[Dim]:
    """Refine ``dim`` into a product of ``sizes`` and return the factors, one per size.

    Raises:
        Conflict: the sizes cut across the factors that are already known.
    """
    dim = dim.root()
    if 0 in sizes or math.prod(sizes) != dim.size:
        raise Conflict(f"a dimension of size {dim.size} is viewed as {list(sizes)}")
    real = [size for size in sizes if size != 1]
    if dim.kind == "atom" or len(real) < 2:
        parts = iter(_refine(dim, "product", real) if len(real) > 1 else [dim])
        return [Dim(1) if size == 1 else next(parts) for size in sizes]
    if dim.kind == "concat":
        return _split_stacked(dim, sizes)
    return regroup(flat(dim, "product"), sizes)


def _split_stacked(dim: Dim, sizes: Sequence[int]) -> list[Dim]:
    """View a concatenation as ``n x inner``: fused projections are stored so, and groups of heads side by side."""
    segments = flat(dim, "concat")
    inner = math.prod([size for size in sizes if size != 1][1:])
    if any(part.size % inner for part in segments):
        raise Conflict(f"a concatenation of sizes {[part.size for part in segments]} is viewed as {list(sizes)}")
    outer, rest = _stacked(segments, inner)
    dim.kind, dim.parts = "product", [outer.root(), rest.root()]
    return regroup(flat(dim, "product"), sizes)


def _stacked(segments: Sequence[Dim], inner: int) -> tuple[Dim, Dim]:
    """See every segment as ``count x inner``; return the counts side by side, and what all of them have inside."""
    reason = Reason("stack", "the number of stacked parts")
    parts = [split_product(part, [part.root().size // inner, inner]) for part in segments]
    for _, rest in parts[1:]:
        unify(parts[0][1], rest)
    if all(count.root().size == 1 for count, _ in parts):
        return Dim(len(parts), reason), parts[0][1]
    return concat([Dim(1, reason) if count.root().size == 1 else count for count, _ in parts]), parts[0][1]


def regroup(factors: Sequence[Dim], sizes: Sequence[int]) -> list[Dim]:
    """Group the ordered ``factors`` into one term per entry of ``sizes``, splitting factors where needed.

    Raises:
        Conflict: the boundaries of ``sizes`` cut across a factor that cannot be split there.
    """
    rest = [factor.root() for factor in factors if factor.root().size != 1]
    out: list[Dim] = []
    for size in sizes:
        taken: list[Dim] = []
        have = 1
        while have < size:
            if not rest:
                raise Conflict(f"no factors left for a dimension of size {size}")
            head = rest.pop(0).root()
            if head.kind == "product":
                rest[:0] = flat(head, "product")
                continue
            need = size // have
            if size % have == 0 and need % head.size == 0:
                taken.append(head)
                have *= head.size
            elif size % have == 0 and head.size % need == 0:
                first, second = split_product(head, [need, head.size // need])
                taken.append(first)
                rest.insert(0, second)
                have *= need
            else:
                raise Conflict(f"a dimension of size {head.size} is viewed across a boundary at {need}")
        out.append(product(taken))
    return out


def split_concat(dim: Dim, sizes: Sequence[int]) -> list[Dim]:
    """Refine ``dim`` into a concatenation of ``sizes`` and return the segments, one per size (0 allowed).

    Raises:
        Conflict: the dimension is a product whose first factor does not count the segments.
    """
    dim = dim.root()
    if sum(sizes) != dim.size:
        raise Conflict(f"a dimension of size {dim.size} is split into {list(sizes)}")
    real = [size for size in sizes if size]
    if dim.kind == "atom" or len(real) < 2:
        parts = iter(_refine(dim, "concat", real) if len(real) > 1 else [dim])
        return [next(parts) if size else Dim(0) for size in sizes]
    if dim.kind == "product":
        return _split_outer(dim, sizes)
    rest = flat(dim, "concat")
    out: list[Dim] = []
    for size in sizes:
        taken: list[Dim] = []
        have = 0
        while have < size:
            head = rest.pop(0).root()
            if head.kind == "concat":
                rest[:0] = flat(head, "concat")
            elif have + head.size <= size:
                taken.append(head)
                have += head.size
            else:
                first, second = split_concat(head, [size - have, head.size - (size - have)])
                taken.append(first)
                rest.insert(0, second)
                have = size
        out.append(concat(taken) if taken else Dim(0))
    return out


def _split_outer(dim: Dim, sizes: Sequence[int]) -> list[Dim]:
    """Split ``n x rest`` along n: each segment is some of the n, which therefore must stay."""
    factors = flat(dim, "product")
    outer, rest = factors[0].root(), product(factors[1:])
    if any(size % rest.size for size in sizes):
        raise Conflict(f"a product of sizes {[f.root().size for f in factors]} is split into {list(sizes)}")
    counts = [size // rest.size for size in sizes]
    if any(count not in (0, 1) for count in counts):
        inner = split_concat(outer, counts)
        return [product([part, rest]) if part.size else Dim(0) for part in inner]
    freeze(outer, Reason("stack", "the number of stacked parts"))
    return [rest if count else Dim(0) for count in counts]


def unify(a: Dim, b: Dim) -> None:
    """Make ``a`` and ``b`` one term: they change together from now on.

    Raises:
        Conflict: their structures cannot be aligned (part of them may have been unified; freeze both then).
    """
    a, b = a.root(), b.root()
    if a is b:
        return
    if a.size != b.size:
        raise Conflict(f"sizes {a.size} and {b.size} meet")
    if a.kind != "atom" and b.kind == "atom":
        a, b = b, a
    if a.kind == "atom":
        _absorb(a, b)
    elif a.kind == b.kind == "product":
        _align(flat(a, "product"), flat(b, "product"), "product")
    elif a.kind == b.kind == "concat":
        _align(flat(a, "concat"), flat(b, "concat"), "concat")
    else:
        _unify_stacked(*((a, b) if a.kind == "product" else (b, a)))


def _absorb(atom: Dim, into: Dim) -> None:
    if any(inner is atom for inner in atoms(into)):
        raise Conflict("a dimension would contain itself")
    if atom.reason is not None:
        freeze(into, atom.reason)
    if atom.source is not None:
        if into.kind == "atom":
            into.source = into.source or atom.source
        else:
            freeze(into, Reason("batch", "part of the batch dimension"))
    atom.parent = into


def _align(left: list[Dim], right: list[Dim], kind: Literal["product", "concat"]) -> None:
    """Unify two flat lists of factors (segments) by their common refinement."""
    split = split_product if kind == "product" else split_concat
    while left and right:
        a, b = left.pop(0).root(), right.pop(0).root()
        if a.kind == kind or b.kind == kind:  # an earlier unification of this very loop refined it
            left[:0], right[:0] = flat(a, kind), flat(b, kind)
            continue
        if a.size == b.size:
            unify(a, b)
            continue
        big, small = (a, b) if a.size > b.size else (b, a)
        if kind == "product" and big.size % small.size:
            raise Conflict(f"factors {a.size} and {b.size} do not divide each other")
        rest = big.size // small.size if kind == "product" else big.size - small.size
        first, second = split(big, [small.size, rest])
        unify(first, small)
        (left if big is a else right).insert(0, second)


def _unify_stacked(prod: Dim, cat: Dim) -> None:
    segments, factors = flat(cat, "concat"), flat(prod, "product")
    outer, rest = factors[0], product(factors[1:])
    if any(part.size % rest.size for part in segments):
        raise Conflict(f"a product of sizes {[f.size for f in factors]} meets a concatenation")
    counts = [part.size // rest.size for part in segments]
    if all(count == 1 for count in counts):
        freeze(outer, Reason("stack", "the number of stacked parts"))
        parts: list[Dim] = [Dim(1) for _ in counts]
    else:
        parts = split_concat(outer, counts)
    for part, segment in zip(parts, segments, strict=True):
        unify(segment, product([part, rest]))
