"""Balanced draws: the wave, the odds against an optimiser's, and histograms flatter than even draws give."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pliant.checks import UnknownNameError, WrongShapeError
from pliant.space import Choice, Space
from pliant.techniques.train.balanced_bits import BalancedBits, tilted
from tests.techniques.train.turns import Notes, check_resume, check_runs

SPACE = Space([Choice("depth", (1, 2)), *(Choice(f"{at}.bits", (2, 3, 4)) for at in range(32))])


def average(config: Any) -> float:
    return sum(option for name, option in config.items() if name.endswith(".bits")) / 32


def drawn(recipe: BalancedBits, space: Space, steps: int) -> list[Any]:
    return [recipe.draw(Notes(space, step=step)) for step in range(steps)]  # type: ignore[arg-type]


def test_the_wave_goes_down_and_up_again() -> None:
    recipe = BalancedBits(period=8)
    assert [recipe.wave(step) for step in range(10)] == [1, 0.75, 0.5, 0.25, 0, 0.25, 0.5, 0.75, 1, 0.75]


@pytest.mark.parametrize("mean", [2.0, 2.1, 2.9, 3.0, 3.7, 4.0])
def test_odds_have_the_mean_and_the_most_entropy(mean: float) -> None:
    odds = tilted((2, 3, 4), mean)
    assert sum(odds) == pytest.approx(1)
    assert sum(p * n for p, n in zip(odds, (2, 3, 4), strict=True)) == pytest.approx(mean, abs=1e-9)

    def entropy(row: list[float]) -> float:
        return -sum(p * math.log(p) for p in row if p > 0)

    # All probabilities of that mean are a line: p3 = t, the others follow.
    best = max(
        entropy([(4 - mean - t) / 2, t, (mean - 2 - t) / 2])
        for t in np.linspace(0, min(4 - mean, mean - 2), 2001).tolist()
    )
    assert entropy(odds) == pytest.approx(best, abs=1e-6)


def test_odds_of_uneven_options_and_of_means_that_cannot_be() -> None:
    odds = tilted((2, 3, 4, 32), 17.0)
    assert sum(p * n for p, n in zip(odds, (2, 3, 4, 32), strict=True)) == pytest.approx(17)
    assert tilted((2, 3), 7.0) == [0, 1]
    assert tilted((2, 3), 1.0) == [1, 0]
    assert tilted((5,), 3.0) == [1]


def test_average_bits_are_spread_more_evenly_than_by_even_draws() -> None:
    steps = 800
    balanced = [average(config) for config in drawn(BalancedBits(period=200), SPACE, steps)]
    even = [average(SPACE.sample(Notes(SPACE, step=step).rng)) for step in range(steps)]
    rows = [np.histogram(row, bins=8, range=(2, 4))[0] / steps for row in (balanced, even)]
    flat, peaked = (float(np.abs(row - 1 / 8).sum()) for row in rows)
    assert flat < 0.25 < 1.0 < peaked
    assert rows[0].min() > 0.06  # every eighth of the range gets half of its share at least
    assert rows[1].min() == 0  # and here some get nothing


def test_other_choices_are_drawn_evenly_and_constraints_hold() -> None:
    space = Space(SPACE.choices, ["0.bits <= 3", "1.bits >= 4"])
    found = drawn(BalancedBits(period=40), space, 400)
    assert all(config["0.bits"] in (2, 3) and config["1.bits"] == 4 for config in found)
    assert 150 < sum(config["depth"] == 1 for config in found) < 250


@pytest.mark.slow
def test_it_trains_any_numbers_and_goes_on_after_a_kill(tmp_path: Path) -> None:
    check_runs(BalancedBits(pattern="*", period=4))  # its widest members, its narrowest, and two between
    check_resume(BalancedBits(pattern="*.width", period=4), tmp_path)


def test_what_is_refused() -> None:
    for fields in ({"period": 1}, {"lead": 2.0}, {"temperature": 0.0}):
        with pytest.raises(WrongShapeError, match=r"BalancedBits\."):
            BalancedBits(**fields)
    with pytest.raises(UnknownNameError, match=r"\*\.bits.*depth"):
        BalancedBits().draw(Notes(Space([Choice("depth", (1, 2))])))  # type: ignore[arg-type]
    with pytest.raises(WrongShapeError, match="'a' has the option 'x'"):
        BalancedBits(pattern="a").draw(Notes(Space([Choice("a", ("x", "y"))])))  # type: ignore[arg-type]
