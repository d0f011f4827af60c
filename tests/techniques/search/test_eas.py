"""The meta-controller: its gradient against differences, what it may do, and what it learns."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from pliant.checks import WrongShapeError
from pliant.space import Choice, Config, Forms, Problem, Space
from pliant.techniques.search._meta_controller import MetaController, Steps
from pliant.techniques.search._worth import Baseline
from pliant.techniques.search.eas import Eas, _Stages
from tests.techniques.search.table import Table, drive

MIXED = Space(
    [
        Choice("0.width", (8, 16, 24)),
        Choice("0.deeper", (False, True)),
        Choice("1.width", (8, 16)),
        Choice("1.paths", ("one", "mean", "parts"), ordered=False),
        Choice("fixed", (1,)),
    ],
    ["0.width >= 16"],
)


@pytest.fixture
def controller() -> MetaController:
    rng = np.random.default_rng(0)
    made = MetaController(MIXED, 5, rng)
    for parameter in made.parameters:
        parameter += rng.normal(0, 0.4, parameter.shape)
    return made


def everything(controller: MetaController) -> np.ndarray:
    return np.array(list(itertools.product(*(range(size) for size in controller.sizes))))


def decisions(controller: MetaController) -> Steps:
    """Twelve of each actor, all possible, on networks in which some choices do not matter."""
    rng = np.random.default_rng(1)
    rows = rng.integers(controller.sizes, size=(24, 5))
    active = rng.random((24, 5)) < 0.8
    widened = (rng.random((24, 5)) < 0.5) & controller.can_widen(rows, active)
    widened[12:] = False
    taken = np.array([rng.choice(np.flatnonzero(each)) for each in controller.can_insert(rows, active)])
    taken[:12] = -1
    return Steps(rows, active, widened, taken)


def test_the_gradient_against_differences(controller: MetaController) -> None:
    steps = decisions(controller)
    weights = np.random.default_rng(2).normal(size=24)
    for parameter, gradient in zip(controller.parameters, controller.gradient(steps, weights), strict=True):
        assert gradient.shape == parameter.shape
        for at in np.ndindex(parameter.shape):
            found = []
            for step in (1e-5, -2e-5):
                parameter[at] += step
                found.append(float(weights @ controller.log_chances(steps)))
            parameter[at] += 1e-5
            assert gradient[at] == pytest.approx((found[0] - found[1]) / 2e-5, rel=1e-6, abs=1e-6)
        assert np.abs(gradient).max() > 1e-3


def test_all_decisions_of_an_actor_sum_to_one(controller: MetaController) -> None:
    rows = everything(controller)
    active = np.ones(rows.shape, dtype=bool)
    total = np.zeros(len(rows))
    for bits in itertools.product([False, True], repeat=5):
        widened = np.tile(bits, (len(rows), 1))
        possible = ~(widened & ~controller.can_widen(rows, active)).any(axis=1)
        chances = np.exp(controller.log_chances(Steps(rows, active, widened, np.full(len(rows), -1))))
        total += np.where(possible, chances, 0)
    np.testing.assert_allclose(total, 1)
    np.testing.assert_allclose(controller.chances(rows, active)[1].sum(axis=1), 1)


def test_only_growth_is_possible(controller: MetaController) -> None:
    assert controller.insertions.tolist() == [[1, 1], [3, 1], [3, 2]]
    rows, active = np.array([[0, 0, 0, 0, 0], [1, 1, 1, 2, 0]]), np.ones((2, 5), dtype=bool)
    assert controller.can_widen(rows, active).tolist() == [[True, False, True, False, False], [False] * 5]
    assert controller.can_insert(rows, active).tolist() == [[True] * 4, [False, False, False, True]]
    grows, takes = controller.chances(rows, active)
    assert (grows > 0).tolist() == controller.can_widen(rows, active).tolist()
    assert (takes > 0).tolist() == controller.can_insert(rows, active).tolist()


def test_the_controller_reads_both_ways_and_skips_what_does_not_matter(controller: MetaController) -> None:
    rows, active = np.zeros((1, 5), dtype=int), np.ones((1, 5), dtype=bool)
    first, last = rows.copy(), rows.copy()
    first[0, 1], last[0, 3] = 1, 1
    at_two = [controller.chances(each, active)[0][0, 2] for each in (rows, first, last)]
    assert len(set(at_two)) == 3
    active[0, 3] = False
    assert controller.chances(rows, active)[0][0, 2] == controller.chances(last, active)[0][0, 2]


def priced(table: Table, weight: float) -> object:
    def measure(configs: object) -> np.ndarray:
        indices = table.space.indices(configs)  # type: ignore[arg-type]
        return (table.error(indices) + weight * table.cost(indices))[:, None]

    return measure


@pytest.mark.slow
@pytest.mark.parametrize(
    ("table", "weight"),
    [
        pytest.param(Table(8, 4), 0.1, id="8x4"),
        pytest.param(Table(6, 6, seed=1), 0.15, id="6x6", marks=pytest.mark.slow),
    ],
)
def test_the_controller_beats_random_actions(table: Table, weight: float) -> None:
    """At 100 evaluations each, over 5 seeds: the best that was found, and the mean of the last forty."""
    measure = priced(table, weight)
    best: dict[float, list[float]] = {0.03: [], 0.0: []}
    late: dict[float, list[float]] = {0.03: [], 0.0: []}
    for rate, seed in itertools.product(best, range(5)):
        asked = drive(Eas(rate=rate, hidden=16).start(Problem(table.space, 1, seed)), 100, measure)  # type: ignore[arg-type]
        values = measure(asked)[:, 0]  # type: ignore[operator]
        best[rate].append(values.min())
        late[rate].append(values[60:].mean())
    assert np.mean(best[0.03]) < np.mean(best[0.0])
    assert np.mean(late[0.03]) < np.mean(late[0.0])


def test_children_are_growths_of_the_network_of_the_stage() -> None:
    table = Table(5, 6)
    measure = priced(table, 0.3)
    proposer = Eas(children=6, wider=1, deeper=0).start(Problem(table.space, 1, 0))
    assert isinstance(proposer, _Stages)
    assert drive(proposer, 1, measure) == [table.space.smallest()]  # type: ignore[arg-type]
    parents = []
    for number in range(30):
        if number == 6:
            best = min(proposer.told.values(), key=lambda each: each.values).config
        [config] = drive(proposer, 1, measure)  # type: ignore[arg-type]
        assert set((table.space.indices([config])[0] - proposer.parent).tolist()) in ({0, 1}, {1})
        parents.append(tuple(proposer.parent.tolist()))
    assert parents[:6] == [(0,) * 5] * 6
    assert parents[6:12] == [tuple(table.space.indices([best])[0].tolist())] * 6
    assert len(set(parents)) == 5


def test_what_is_put_in_begins_as_the_smallest() -> None:
    space = Space([Choice("in", (False, True)), Choice("in.width", (1, 2, 3))])

    def active(indices: np.ndarray) -> np.ndarray:
        return np.stack([np.ones(len(indices), dtype=bool), indices[:, 0] == 1], axis=1)

    def canonical(indices: np.ndarray) -> np.ndarray:
        return np.where(active(indices), indices, 2)

    proposer = Eas(wider=0, deeper=1).start(Problem(space, 1, 0, forms=Forms(canonical, active)))
    asked = drive(proposer, 2, lambda configs: np.zeros((1, 1)))
    assert asked[1] == Config({"in": True, "in.width": 1})


def test_the_same_seed_gives_the_same_configs() -> None:
    def run(seed: int) -> list[Config]:
        problem = Problem(MIXED, 1, seed)
        return drive(
            Eas(batch=3, wider=1, deeper=1, hidden=8).start(problem),
            20,
            lambda configs: MIXED.indices(configs).sum(axis=1)[:, None] % 4,
        )

    assert run(0) == run(0) != run(1)


def test_the_baseline_moves() -> None:
    baseline = Baseline(0.5)
    assert baseline.advantages(np.array([1.0, 3.0])).tolist() == [-0.5, 0.75]  # from 2 to 1.5 to 2.25
    assert baseline.advantages(np.array([2.25])).tolist() == [0.0]


def test_bad_settings() -> None:
    with pytest.raises(WrongShapeError, match="at least 1"):
        Eas(children=0)
    with pytest.raises(WrongShapeError, match="at least one step"):
        Eas(wider=0, deeper=0)
    with pytest.raises(WrongShapeError, match="memory"):
        Eas(memory=1.0)
