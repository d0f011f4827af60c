"""Which members are shown, and which are recommended."""

from __future__ import annotations

import itertools
from random import Random

import pytest

from pliant.runs.choose import SHOWN, candidates, not_faster
from pliant.space import Config
from pliant.study import Trial

FULL = {"error": 2.0, "macs": 1000.0}


def trial(number: int, error: float, macs: float) -> Trial:
    return Trial(number, Config({"width": number}), {"error": error, "macs": macs}, {})


def picked(front: list[Trial], tolerance: float = 1.5) -> list[int]:
    return [each.number for each in candidates(front, "error", FULL, tolerance)]


def test_a_short_front_is_shown_whole_largest_first() -> None:
    front = [trial(0, 9.0, 100), trial(1, 2.0, 900), trial(2, 4.0, 400)]
    assert picked(front) == [1, 2, 0]
    assert picked([]) == []


def test_what_is_no_smaller_than_the_full_network_is_not_shown() -> None:
    assert picked([trial(0, 1.9, 1000), trial(1, 1.8, 1200), trial(2, 2.5, 500)]) == [2]


def test_the_same_network_is_shown_once() -> None:
    assert picked([trial(3, 3.0, 500), trial(1, 3.0, 500), trial(2, 3.0, 400)]) == [1, 2]


def test_of_a_long_front_the_ends_and_the_smallest_good_one_are_shown() -> None:
    front = [trial(k, 2.0 + 0.2 * k, 900 * 0.8**k) for k in range(20)]  # good up to error 3.5: numbers 0 to 7
    found = picked(front)
    assert len(found) == SHOWN
    assert {0, 7} <= set(found)
    assert max(found) <= 7  # enough good ones: nothing worse is shown
    assert found == sorted(found)


def test_with_few_good_ones_the_smallest_shows_where_quality_breaks() -> None:
    front = [trial(k, 2.0 + k, 900 * 0.8**k) for k in range(12)]  # good: 0 and 1
    found = picked(front)
    assert {0, 1, 11} <= set(found)
    assert len(found) == SHOWN


def test_members_between_are_spread_evenly_over_the_logarithm() -> None:
    front = [trial(k, 2.0 + 0.001 * k, 900 * 0.97**k) for k in range(101)]
    found = picked(front)
    gaps = [b - a for a, b in itertools.pairwise(found)]
    assert found[0] == 0
    assert found[-1] == 100
    assert max(gaps) <= 26


def test_the_choice_does_not_depend_on_the_order_of_the_front(rng: Random) -> None:
    front = [trial(k, 2.0 + 0.1 * k, 900 * 0.9**k) for k in range(30)]
    shuffled = rng.sample(front, len(front))
    assert picked(shuffled) == picked(front)


@pytest.mark.parametrize(
    ("ratio", "dropped"),
    [
        ({"full": 1.0, "m1": 0.7, "m2": 0.4}, {}),
        ({"full": 1.0, "m1": 1.1, "m2": 0.4}, {"m1": "full"}),  # slower than the full network
        ({"full": 1.0, "m1": 0.4, "m2": 0.5}, {"m2": "m1"}),
        ({"full": 1.0, "m1": 0.5, "m2": 0.5}, {"m2": "m1"}),  # as fast is not faster
        ({"full": 1.0, "m1": 1.2, "m2": 1.1}, {"m1": "full", "m2": "full"}),  # compared with the fastest bigger one
    ],
)
def test_what_is_not_faster_than_a_bigger_one_is_dropped(ratio: dict[str, float], dropped: dict[str, str]) -> None:
    macs = {"full": 1000.0, "m1": 600.0, "m2": 300.0}
    assert not_faster(list(macs), macs, ratio) == dropped


def test_equal_sizes_do_not_drop_each_other() -> None:
    macs = {"full": 1000.0, "m1": 300.0, "m2": 300.0}
    assert not_faster(list(macs), macs, {"full": 1.0, "m1": 0.5, "m2": 0.4}) == {}
