from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from pliant.checks import UnknownNameError, WrongShapeError
from pliant.graph import Analysis, analyze
from pliant.graph.slicing import Slicing, take
from tests.graph.support import Tiny


@pytest.fixture(scope="module")
def analysis() -> Analysis:
    net = Tiny(
        lambda s, x: s.out(torch.cat([s.a(x).relu(), s.b(x).relu()], 1)),
        a=nn.Linear(5, 8), b=nn.Linear(5, 4), out=nn.Linear(12, 2),
    )  # fmt: skip
    return analyze(net, (torch.randn(3, 5),))


def test_a_prefix_is_a_view(analysis: Analysis) -> None:
    slicing = Slicing(analysis, {"a.width": 3})
    full = torch.randn(8, 5)
    cut = slicing.cut("a.weight", full)
    assert torch.equal(cut, full[:3])
    assert cut.data_ptr() == full.data_ptr()
    assert slicing.picks("a.weight") == (slice(0, 3), None)


def test_consecutive_indices_are_a_view_too_and_all_is_everything(analysis: Analysis) -> None:
    assert Slicing(analysis, {"a.width": [2, 3, 4]}).picks("a.bias") == (slice(2, 5),)
    assert Slicing(analysis, {"a.width": list(range(8))}).whole
    assert Slicing(analysis, {"a.width": 8}).whole
    assert not Slicing(analysis, {"a.width": 7}).whole


def test_indices_are_gathered_in_their_new_order(analysis: Analysis) -> None:
    slicing = Slicing(analysis, {"a.width": [6, 1], "b.width": [3, 0, 2]})
    full = torch.randn(2, 12)
    assert torch.equal(slicing.cut("out.weight", full), full[:, [6, 1, 11, 8, 10]])
    assert slicing.size(analysis.trace.parameters["out.weight"][1]) == 5


def test_an_axis_cut_to_one_unit(analysis: Analysis) -> None:
    assert Slicing(analysis, {"a.width": [5]}).cut("a.bias", torch.arange(8)).tolist() == [5]


@pytest.mark.parametrize("units", [0, 9, -1, [], [8], [-1], [1, 1]])
def test_units_out_of_range_are_refused(analysis: Analysis, units: object) -> None:
    with pytest.raises(WrongShapeError, match=r"axis 'a\.width' has 8 units"):
        Slicing(analysis, {"a.width": units})  # type: ignore[dict-item]


def test_unknown_names_get_the_nearest(analysis: Analysis) -> None:
    with pytest.raises(UnknownNameError, match=r"did you mean 'a.width'"):
        Slicing(analysis, {"a.widht": 3})
    with pytest.raises(UnknownNameError, match=r"no block named 'blocks\.0'"):
        Slicing(analysis, {}, ["blocks.0"])


def test_tensors_that_no_axis_reaches_stay(analysis: Analysis) -> None:
    assert Slicing(analysis, {"a.width": 2}).picks("unheard.of") == ()


def test_take_mixes_ranges_and_places() -> None:
    x = torch.arange(24).reshape(4, 6)
    assert torch.equal(take(x, (slice(1, 3), np.array([5, 0]))), x[1:3][:, [5, 0]])
    assert torch.equal(take(x, ()), x)
