from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given

from pliant.checks import CorruptFileError, UnknownNameError, WrongShapeError
from pliant.space import Choice
from tests.space.strategies import OPTIONS


def test_options_go_from_smallest_to_largest() -> None:
    width = Choice("width", (128, 256, 512))
    assert (width.smallest, width.largest, width.ordered) == (128, 512, True)
    assert [width.index(option) for option in (128, 256, 512)] == [0, 1, 2]


def test_lists_become_tuples_and_numpy_numbers_plain() -> None:
    kept = Choice("kept", [[0, 1], (2,)])  # type: ignore[arg-type]
    assert kept.options == ((0, 1), (2,))
    ratio = Choice("ratio", (np.float64(0.5), 1.0))
    assert type(ratio.options[0]) is float
    width = Choice("width", tuple(np.arange(8, 25, 8)))
    assert [type(option) for option in width.options] == [int] * 3
    assert width.index(np.int64(16)) == 1
    assert Choice("bias", (np.bool_(False), np.bool_(True))).options == (False, True)  # type: ignore[arg-type]
    assert hash(kept) != hash(ratio)


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        ("", (1,), "needs a name"),
        (3, (1,), "needs a name"),
        ("width", (), "has no options"),
        ("width", "abc", "options are a tuple"),
        ("width", 4, "options are a tuple"),
        ("width", (1, 2, 1), "option 1 twice"),
        ("width", (1, True), "option True twice"),
        ("width", (1, float("nan")), "finite numbers, got nan"),
        ("width", (1, None), "of type NoneType"),
        ("width", ({"a": 1},), "of type dict"),
    ],
)
def test_a_bad_choice_says_what_is_wrong(name: object, options: object, said: str) -> None:
    with pytest.raises(WrongShapeError, match=said):
        Choice(name, options)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("options", "wanted", "said"),
    [
        ((128, 256, 512), 250, r"has no option 250; did you mean 256\? \(options: 128, 256, 512\)"),
        ((128, 256), "256", r"has no option '256'; did you mean 256\?"),
        (("relu", "gelu"), "gelo", r"did you mean 'gelu'\?"),
        (("relu", "gelu"), "zzz", r"has no option 'zzz' \(options"),
        ((0, 1), True, "has no option True"),
        ((False, True), 1, "has no option 1"),
        (tuple(range(20)), None, r"of type NoneType.*… \(20 in all\)"),
    ],
)
def test_an_unknown_option_offers_the_nearest(options: tuple[int, ...], wanted: object, said: str) -> None:
    with pytest.raises(UnknownNameError, match=said):
        Choice("c", options).index(wanted)


def test_a_whole_float_is_the_integer_option() -> None:
    assert Choice("depth", (1, 2)).index(2.0) == 1


@pytest.mark.slow
@given(OPTIONS)
def test_record_round_trip(option: object) -> None:
    choice = Choice("c", (option,), ordered=False)  # type: ignore[arg-type]
    again = Choice.from_dict(json.loads(json.dumps(choice.to_dict())))
    assert again == choice
    assert repr(again) == repr(choice)


@pytest.mark.parametrize("record", [{}, {"name": "a", "options": 3, "ordered": True}, {"name": "a", "options": [1]}])
def test_a_record_that_is_no_choice(record: dict[str, object]) -> None:
    with pytest.raises(CorruptFileError, match="record of a choice"):
        Choice.from_dict(record)
