"""Copies of picked places, and additions to them, against NumPy's indexing."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pliant.family import indexing
from pliant.family.indexing import Index
from pliant.graph.slicing import Pick

PICKS: dict[str, tuple[Pick, ...]] = {
    "three runs": (np.r_[0:4, 8:12, 16:20], None),
    "runs and a range": (np.r_[0:2, 8:10], slice(1, 5)),
    "runs in both": (np.r_[0:2, 8:10], np.r_[0:2, 4:6]),
    "runs at other distances": (np.r_[0:2, 8:10, 12:14], None),
    "runs of other lengths": (np.r_[0:2, 8:12, 16:18], None),
    "runs of columns": (slice(3, 9), np.r_[1:3, 4:6]),
    "no runs": (np.random.default_rng(0).permutation(24)[:13], None),
    "so many blocks that places are looked up": (np.arange(0, 24, 2), np.arange(0, 6, 2)),
    "turned round": (None, np.arange(6)[::-1].copy()),
    "the same runs again": (np.r_[0:4, 0:4, 0:4], None),
    "runs that overlap": (np.r_[0:4, 2:6, 4:8], None),
}


@pytest.fixture(autouse=True, params=[0, 1 << 15], ids=["large", "small"])
def large(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Copy as large tensors are copied, and as small ones."""
    monkeypatch.setattr(indexing, "_ALONE", request.param)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("name", PICKS)
def test_what_is_taken_and_where_it_is_added(name: str, dtype: torch.dtype) -> None:
    picks = PICKS[name]
    value = torch.arange(24.0 * 6).reshape(24, 6).to(dtype)
    index = Index(picks, value.shape)
    grid = np.ix_(*(np.arange(n) if p is None else np.r_[p] for p, n in zip(picks, value.shape, strict=True)))
    taken = index.take(value)
    assert tuple(taken.shape) == tuple(index.shape)
    assert torch.equal(taken, value[grid])
    assert taken.untyped_storage().data_ptr() != value.untyped_storage().data_ptr()

    addend = torch.randint(1, 9, taken.shape).to(dtype)
    target, want = torch.ones_like(value), torch.ones_like(value)
    index.add(target, addend)
    want.index_put_(tuple(map(torch.as_tensor, grid)), addend, accumulate=True)
    assert torch.equal(target, want)


@pytest.mark.parametrize("name", PICKS)
def test_a_strided_view_holds_what_lies_regularly(name: str) -> None:
    value = torch.arange(24.0 * 6).reshape(24, 6)
    index = Index(PICKS[name], value.shape)
    if name not in ("three runs", "runs and a range", "runs of columns"):
        assert not index.regular
    elif index.regular:  # so it is if it is small
        view = index.strided(value)
        assert view.untyped_storage().data_ptr() == value.untyped_storage().data_ptr()
        assert torch.equal(view.reshape(index.shape), index.take(value))


@pytest.mark.parametrize("name", PICKS)
def test_the_parts_hold_all_that_is_picked(name: str) -> None:
    value = torch.zeros(24, 6)
    index = Index(PICKS[name], value.shape)
    index.add(value, torch.ones(index.shape))
    for part in index.parts(value):
        part.zero_()
    assert not value.any()


def test_a_few_blocks_are_all_that_is_touched() -> None:
    value = torch.ones(24, 6)
    for part in Index(PICKS["runs in both"], value.shape).parts(value):
        part.zero_()
    assert value.sum() == 24 * 6 - 4 * 4


def test_gradients_that_lie_transposed_are_added_alike() -> None:
    index, target = Index((np.r_[0:2, 4:6], None), (8, 3)), torch.zeros(8, 3)
    addend = torch.arange(12.0).reshape(3, 4).t()
    index.add(target, addend)
    assert torch.equal(target[[0, 1, 4, 5]], addend)


@pytest.mark.parametrize("name", ["three runs", "runs of columns"])
def test_one_index_serves_several_tensors_by_turns_and_one_whose_data_are_replaced(name: str) -> None:
    picks = PICKS[name]
    grid = np.ix_(*(np.arange(n) if p is None else np.r_[p] for p, n in zip(picks, (24, 6), strict=True)))
    index, values = Index(picks, (24, 6)), [torch.rand(24, 6), torch.rand(6, 24).t(), torch.rand(24, 6).double()]
    for turn in range(4):
        for at, value in enumerate(values):
            assert torch.equal(index.take(value), value[grid])
            want = value.clone()
            want[grid] += turn
            index.add(value, torch.full(index.shape, turn, dtype=value.dtype))
            assert torch.equal(value, want)
            value.data = torch.rand_like(value) if turn == at else value.data.add(1.0)
