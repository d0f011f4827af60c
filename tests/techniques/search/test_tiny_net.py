"""TinyNet: the formula's identities, its fit to a planted law, and its networks against equal shrinking."""

from __future__ import annotations

import numpy as np
import pytest

from pliant.checks import WrongShapeError
from pliant.space import Choice, Problem, Space
from pliant.techniques.search.tiny_net import Formula, TinyNet, _TinyNet, role, shares_of, width_of

SPACE = Space(
    [
        Choice("resolution", tuple(range(64, 225, 16))),
        Choice("blocks.depth", tuple(range(2, 13))),
        Choice("stages.0.width", tuple(range(8, 65, 8))),
        Choice("stages.1.width", tuple(range(16, 129, 16))),
    ]
)


def costs(rows: np.ndarray) -> np.ndarray:
    shares = shares_of(SPACE.choices, rows)
    return 1e9 * shares["depth"] * shares["width"] ** 2 * shares["resolution"] ** 2


def error(rows: np.ndarray) -> np.ndarray:
    """A law in which resolution and depth matter more than width."""
    shares = shares_of(SPACE.choices, rows)
    return 20 * shares["resolution"] ** -0.8 * shares["depth"] ** -0.35 * shares["width"] ** -0.3


@pytest.mark.parametrize("c", [0.02, 0.1, 0.5, 0.9])
def test_the_shares_multiply_to_the_cost_exactly(c: float) -> None:
    points = np.array([0.05, 0.2, 0.6])
    formula = Formula(points, points**0.2, points**0.3)
    resolution, depth, width = formula(c)
    assert depth * width**2 * resolution**2 == pytest.approx(c, rel=1e-12)


def test_the_full_cost_gives_the_full_network() -> None:
    assert Formula(np.array([0.1, 0.3]), np.array([0.5, 0.6]), np.array([0.4, 0.9]))(1.0) == (1.0, 1.0, 1.0)
    assert width_of(1.0, 1.0, 1.0) == 1.0


def test_a_planted_law_is_found_again() -> None:
    points = np.geomspace(0.02, 0.9, 12)
    formula = Formula(points, points**0.2, points**0.4)
    for c in (0.05, 0.3):
        resolution, depth, _ = formula(c)
        assert resolution == pytest.approx(c**0.2, abs=0.04)
        assert depth == pytest.approx(c**0.4, abs=0.04)


def test_roles_and_shares() -> None:
    assert [role(choice) for choice in SPACE.choices] == ["resolution", "depth", "width", "width"]
    shares = shares_of(SPACE.choices, SPACE.indices([SPACE.largest(), SPACE.smallest()]))
    assert shares["width"].tolist() == [1.0, 0.125]
    assert shares["depth"].tolist() == [1.0, 2 / 12]
    named = Choice("kind", ("a", "b"), ordered=False)
    assert shares_of((named,), np.array([[0], [1]]))["width"].tolist() == [0.5, 1.0]


def test_better_than_shrinking_all_three_equally() -> None:
    """The paper's claim, under a law in which resolution and depth matter more than width."""

    def law(resolution: float, depth: float, width: float) -> float:
        return 20 * resolution**-0.8 * depth**-0.35 * width**-0.3

    for seed in range(5):
        proposer = TinyNet(first=30).start(Problem(SPACE, 2, seed, exact={1: costs}))
        assert isinstance(proposer, _TinyNet)
        for _ in range(30):
            [config] = proposer.ask()
            row = SPACE.indices([config])
            proposer.tell(config, [float(error(row)[0]), float(costs(row)[0])])
        formula = proposer._fitted(*proposer.data())
        for c in (0.05, 0.2, 0.5):
            assert law(*formula(c)) < law(*[c**0.2] * 3)


def test_costs_of_its_networks_are_near_the_budgets() -> None:
    proposer = TinyNet(steps=30).start(Problem(SPACE, 2, 0, exact={1: costs}))
    for _ in range(20):
        [config] = proposer.ask()
        row = SPACE.indices([config])
        proposer.tell(config, [float(error(row)[0]), float(costs(row)[0])])
    asked = costs(SPACE.indices(proposer.ask(25)))
    assert (np.diff(asked) > -0.1 * asked[:-1]).mean() > 0.8  # budgets rise
    assert asked.max() / asked.min() > 10


def test_spaces_without_resolution_and_of_one_choice() -> None:
    for space in (Space([Choice("a.width", (1, 2, 3, 4))]), Space([])):
        proposer = TinyNet(first=4).start(Problem(space, 1))
        for _ in range(6):
            [config] = proposer.ask()
            proposer.tell(config, [1.0])
        assert space.feasible(dict(config))


def test_bad_settings() -> None:
    with pytest.raises(WrongShapeError, match="first is at least 4"):
        TinyNet(first=1)
