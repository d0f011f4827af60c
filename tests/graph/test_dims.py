from __future__ import annotations

import math
import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pliant.graph import Analysis
from pliant.graph.dims import (
    Conflict,
    Dim,
    Reason,
    atoms,
    concat,
    flat,
    freeze,
    product,
    regroup,
    split_concat,
    split_product,
    unify,
)  # fmt: skip
from pliant.graph.nouns import Axis
from pliant.graph.slicing import Slicing

WHY = Reason("test", "kept for the test")


def _sizes(dim: Dim) -> list[int]:
    return [atom.size for atom in atoms(dim)]


def test_atoms_unify_once_and_for_all() -> None:
    a, b, c = Dim(8), Dim(8), Dim(8)
    unify(a, b)
    unify(b, c)
    assert a.root() is b.root() is c.root()
    with pytest.raises(Conflict, match="sizes 8 and 4"):
        unify(a, Dim(4))


def test_a_reason_travels_with_unification_and_refinement() -> None:
    a, b = Dim(8), Dim(8)
    freeze(a, WHY)
    unify(a, b)
    assert b.root().reason is WHY
    parts = split_product(b, [2, 4])
    assert all(part.root().reason is WHY for part in parts)
    freeze(b, Reason("later", "a second reason"))
    assert parts[0].root().reason is WHY, "the first reason is kept"


def test_view_of_a_view_refines_in_common() -> None:
    whole = Dim(24)
    two, twelve = split_product(whole, [2, 12])
    parts = split_product(whole, [6, 4])
    assert _sizes(whole) == [2, 3, 4]
    assert parts[0].parts[0].root() is two.root()
    assert flat(twelve, "product")[1].root() is parts[1].root()


def test_boundaries_that_cross_a_factor_conflict() -> None:
    whole = Dim(12)
    split_product(whole, [3, 4])
    with pytest.raises(Conflict):
        split_product(whole, [2, 6])
    with pytest.raises(Conflict):
        split_product(Dim(12), [5, 2])
    with pytest.raises(Conflict):
        split_product(Dim(12), [12, 0])


def test_sizes_of_one_carry_nothing() -> None:
    whole = Dim(6)
    parts = split_product(whole, [1, 6, 1])
    assert parts[1] is whole
    assert product([Dim(1), whole, Dim(1)]) is whole
    assert product([Dim(1)]).size == 1
    assert regroup([Dim(1), whole], [6, 1])[0] is whole


def test_concatenations_refine_in_common() -> None:
    whole = Dim(10)
    split_concat(whole, [3, 7])
    parts = split_concat(whole, [5, 5])
    assert _sizes(whole) == [3, 2, 5]
    assert _sizes(parts[0]) == [3, 2]
    other = concat([Dim(4), Dim(6)])
    unify(whole, other)
    assert _sizes(whole) == _sizes(other) == [3, 1, 1, 5]
    assert [a.root() for a in atoms(whole)] == [a.root() for a in atoms(other)]


def test_one_segment_is_the_dimension_itself() -> None:
    whole = Dim(6)
    split_product(whole, [2, 3])
    assert split_concat(whole, [6])[0] is whole
    assert split_concat(whole, [0, 6])[1] is whole
    assert split_product(concat([Dim(2), Dim(4)]), [1, 6])[1].size == 6


def test_a_fused_projection_is_a_stack_or_a_concatenation() -> None:
    fused = concat([Dim(4), Dim(4), Dim(4)])
    first = fused.parts[0]
    count, part = split_product(fused, [3, 4])
    assert count.root().reason is not None
    assert part.root() is first.root()
    other = concat([Dim(4), Dim(4), Dim(4)])
    unify(fused, other)  # a product meets a concatenation
    assert other.parts[2].root() is first.root()


def test_a_stack_that_is_split_gives_its_parts() -> None:
    fused = Dim(12)
    count, part = split_product(fused, [3, 4])
    assert [p.root() for p in split_concat(fused, [4, 4, 4])] == [part.root()] * 3
    assert count.root().reason is not None
    uneven = Dim(12)
    split_product(uneven, [3, 4])
    assert [p.size for p in split_concat(uneven, [4, 8])] == [4, 8]
    with pytest.raises(Conflict):
        split_concat(uneven, [6, 6])


def test_unequal_segments_with_a_common_inner_part_are_a_stack_of_stacks() -> None:
    one, two = Dim(4), Dim(8)
    outer, inner = split_product(concat([one, two]), [3, 4])
    assert [atom.size for atom in atoms(outer)] == [1, 2]
    assert list(atoms(one)) == [inner.root()]
    assert [atom.size for atom in atoms(two)] == [2, 4]
    heads, width = Dim(3), Dim(4)
    unify(concat([Dim(4), Dim(8)]), product([heads, width]))
    assert [atom.size for atom in atoms(heads)] == [1, 2]
    assert width.root().kind == "atom"


def test_segments_that_are_viewed_across_are_no_stack() -> None:
    with pytest.raises(Conflict):
        split_product(concat([Dim(5), Dim(7)]), [3, 4])
    with pytest.raises(Conflict):
        unify(concat([Dim(5), Dim(7)]), product([Dim(3), Dim(4)]))


def test_a_dimension_cannot_contain_itself() -> None:
    a = Dim(8)
    outer = product([a, Dim(2)])
    outer.size = a.size  # only a wrong rule could build this
    with pytest.raises(Conflict, match="contain itself"):
        unify(a, outer)


def test_a_batch_that_is_split_is_fixed() -> None:
    batch = Dim(6, WHY)
    batch.source = ("x", 0)
    other = Dim(6)
    unify(other, batch)
    assert other.root().source == ("x", 0)
    parts = split_product(batch, [2, 3])
    assert all(part.root().source is None and part.root().reason for part in parts)


def _refined(rng: random.Random, dim: Dim, depth: int) -> None:
    """Refine a term at random, as views and splits would."""
    size = dim.root().size
    if depth == 0 or size < 2:
        return
    divisors = [d for d in range(2, size) if size % d == 0]
    try:
        if divisors and rng.random() < 0.5:
            first = rng.choice(divisors)
            parts = split_product(dim, [first, size // first])
        else:
            first = rng.randint(0, size)
            parts = split_concat(dim, [first, size - first])
    except Conflict:
        return
    for part in parts:
        _refined(rng, part, depth - 1)


def _brute(dim: Dim, keep: dict[int, list[int]]) -> list[int]:
    """Return the places that stay by plain index arithmetic."""
    dim = dim.root()
    if dim.kind == "atom":
        return keep.get(id(dim), list(range(dim.size)))
    if dim.kind == "concat":
        out, offset = [], 0
        for part in dim.parts:
            out += [offset + i for i in _brute(part, keep)]
            offset += part.root().size
        return out
    out = [0]
    for part in dim.parts:
        out = [i * part.root().size + j for i in out for j in _brute(part, keep)]
    return out


def _slicing(named: dict[str, Dim], keep: dict[str, list[int]]) -> Slicing:
    axes = tuple(Axis(name, "width", atom.size, (), (), atom) for name, atom in named.items())
    analysis = Analysis(axes, (), (), (), trace=None)  # type: ignore[arg-type]
    return Slicing(analysis, keep)


@pytest.mark.slow
@given(st.integers(2, 60), st.integers(0, 10**6))
def test_refinements_keep_sizes_and_picks_are_index_arithmetic(size: int, seed: int) -> None:
    rng = random.Random(seed)
    one, two = Dim(size), Dim(size)
    _refined(rng, one, 3)
    _refined(rng, two, 3)
    try:
        unify(one, two)
        terms = [one, two, concat([one, two]), product([one, Dim(3), two])]
    except Conflict:
        terms = [one, two]
    named: dict[str, Dim] = {}
    keep: dict[str, list[int]] = {}
    for term in terms:
        for atom in atoms(term):
            if atom.size > 1 and atom.reason is None and atom not in named.values():
                named[f"axis{len(named)}"] = atom
    for name, atom in named.items():
        keep[name] = rng.sample(range(atom.size), rng.randint(1, atom.size))
    slicing = _slicing(named, keep)
    by_id = {id(named[name]): indices for name, indices in keep.items()}
    for term in terms:
        parts = term.root().parts
        if parts:
            whole = [part.root().size for part in parts]
            assert (math.prod(whole) if term.root().kind == "product" else sum(whole)) == term.root().size
        wanted = _brute(term, by_id)
        pick = slicing.pick(term)
        got = np.arange(term.root().size)
        got = got if pick is None else got[pick]
        assert got.tolist() == wanted
        assert slicing.size(term) == len(wanted)
