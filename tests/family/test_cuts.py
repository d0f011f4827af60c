"""Cuts are found again, and take what slicing by hand takes."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import pliant
from pliant.family.cuts import Cut, Cuts
from pliant.graph.slicing import Slicing, take

RANGES = [(None, None, None), (slice(0, 3), None, None), (None, slice(1, 4), slice(2, 3)), (slice(2, 5),) * 3]


@pytest.mark.parametrize("picks", RANGES)
def test_a_view_is_what_ranges_leave(picks: tuple[slice | None, ...]) -> None:
    values = [torch.rand(5, 6, 7), torch.rand(7, 6, 5).permute(2, 1, 0), torch.rand(9, 12, 7)[2:7, ::2]]
    for value in values:
        cut = Cut(picks, value.shape)
        want = take(value, picks)
        assert torch.equal(cut.view(value), want)
        assert cut.view(value).stride() == want.stride()
        assert cut.view(value).data_ptr() == want.data_ptr()
        assert cut.whole == (picks == (None, None, None))
        assert torch.equal(cut.view(value.as_subclass(_Other)), want)


class _Other(Tensor):
    """A tensor of another type."""


def test_members_that_keep_the_same_share_a_cut() -> None:
    net = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 4), nn.ReLU(), nn.Linear(4, 2))
    analysis = pliant.analyze(net, (torch.randn(2, 6),))
    cuts = Cuts(analysis)
    one, two = (axis.name for axis in analysis.axes)

    def of(name: str, **kept: int | list[int]) -> Cut:
        picked = {{"one": one, "two": two}[axis]: units for axis, units in kept.items()}
        return cuts.of(name, Slicing(analysis, picked), net.get_parameter(name).shape)

    assert of("0.weight", one=4) is of("0.weight", one=4, two=2)  # the other axis is not its own
    assert of("0.weight", one=4) is not of("0.weight", one=5)
    assert of("0.weight", one=[0, 1, 2, 3]) is of("0.weight", one=4)
    assert of("2.weight", one=4, two=2) is not of("2.weight", one=4)
    picked, weight = of("2.weight", one=[0, 3, 4]), net.get_parameter("2.weight")
    assert picked is of("2.weight", one=[0, 3, 4])
    assert picked is not of("2.weight", one=[0, 3, 5])
    assert torch.equal(picked.take(weight), weight[:, [0, 3, 4]])
    assert of("4.bias", one=4, two=2).whole


def test_no_more_is_remembered_than_a_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pliant.family.cuts._MOST", 3)
    net = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 4))
    analysis = pliant.analyze(net, (torch.randn(2, 6),))
    cuts = Cuts(analysis)
    for units in range(1, 8):
        cut = cuts.of("0.weight", Slicing(analysis, {analysis.axes[0].name: units}), (8, 6))
        assert cut.view(net.get_parameter("0.weight")).shape == (units, 6)
        assert len(cuts._cuts) <= 3
