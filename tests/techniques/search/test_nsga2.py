"""NSGA-II: its sorting against brute force, its search against random search, its record against itself."""

from __future__ import annotations

import itertools
import math
from random import Random

import numpy as np
import pytest

from pliant.checks import WrongShapeError
from pliant.space import Choice, Config, Problem, Space
from pliant.technique import Searcher
from pliant.techniques.search._batches import Measured
from pliant.techniques.search._evolution import judged
from pliant.techniques.search._evolution import survivors as survivors_by
from pliant.techniques.search._standing import standing as by_crowding
from pliant.techniques.search.nsga2 import Nsga2
from pliant.techniques.search.random_search import RandomSearch
from tests.study.toy import Member, Toy, cost, error, hypervolume


def individual(number: int, *values: float, violation: float = 0.0) -> Measured:
    return Measured(Config({"n": number}), values, violation)


def standing(pool: list[Measured]) -> tuple[np.ndarray, np.ndarray]:
    return judged(pool, by_crowding)


def survivors(pool: list[Measured], count: int) -> list[Measured]:
    return survivors_by(pool, count, by_crowding)


def beats(a: Measured, b: Measured) -> bool:
    """Constrained domination, word for word from the paper."""
    if a.violation == 0 and b.violation > 0:
        return True
    if a.violation > 0 and b.violation > 0:
        return a.violation < b.violation
    if a.violation > 0:
        return False
    no_worse = all(x <= y for x, y in zip(a.values, b.values, strict=True))
    return no_worse and any(x < y for x, y in zip(a.values, b.values, strict=True))


def brute_ranks(pool: list[Measured]) -> list[int]:
    left, ranks, rank = set(range(len(pool))), [-1] * len(pool), 0
    while left:
        front = {i for i in left if not any(beats(pool[j], pool[i]) for j in left)}
        for i in front:
            ranks[i] = rank
        left, rank = left - front, rank + 1
    return ranks


def brute_crowding(points: list[tuple[float, float]]) -> np.ndarray:
    """For each point the mean over objectives of the gap between its neighbours, over the range."""
    found = [0.0] * len(points)
    for axis in range(len(points[0])):
        order = sorted(range(len(points)), key=lambda i: points[i][axis])
        span = points[order[-1]][axis] - points[order[0]][axis]
        found[order[0]] = found[order[-1]] = math.inf
        for before, here, after in zip(order, order[1:], order[2:], strict=False):
            found[here] += (points[after][axis] - points[before][axis]) / span / len(points[0])
    return np.array(found)


@pytest.mark.parametrize("objectives", [1, 2, 3])
@pytest.mark.parametrize("trial", range(5))
def test_ranks_against_brute_force(objectives: int, trial: int) -> None:
    rng = Random(trial)
    pool = [
        individual(
            number,
            *(rng.randrange(6) for _ in range(objectives)),
            violation=rng.choice([0.0, 0.0, 0.0, 0.5, 1.0, math.inf]),
        )
        for number in range(40)
    ]
    assert standing(pool)[0].tolist() == brute_ranks(pool)


def test_crowding_against_brute_force(rng: Random) -> None:
    xs = sorted(rng.random() for _ in range(12))
    points = [(x, 1 - x**2) for x in xs]  # one front
    rng.shuffle(points)
    rank, crowding = standing([individual(number, *point) for number, point in enumerate(points)])
    assert set(rank) == {0}
    np.testing.assert_allclose(crowding, brute_crowding(points))


def test_survivors_keep_the_ends_and_the_lonely() -> None:
    points = [(0.0, 1.0), (0.1, 0.9), (0.11, 0.89), (0.12, 0.88), (0.5, 0.5), (1.0, 0.0), (2.0, 2.0)]
    kept = survivors([individual(number, *point) for number, point in enumerate(points)], 4)
    assert {each.values for each in kept} >= {(0.0, 1.0), (1.0, 0.0), (0.5, 0.5)}
    assert (2.0, 2.0) not in {each.values for each in kept}


def drive(searcher: Searcher, toy: Toy, budget: int, seed: int, limit: float = math.inf) -> list[Config]:
    proposer = searcher.start(Problem(toy.space, 2, seed))
    asked = []
    for _ in range(budget):
        [config] = proposer.ask()
        asked.append(config)
        member = Member(config)
        proposer.tell(config, [error(member), cost(member)], max(0.0, cost(member) / limit - 1))
    return asked


def test_the_first_population_holds_both_ends() -> None:
    toy = Toy()
    asked = drive(Nsga2(), toy, 20, 0)
    assert asked[:2] == [toy.space.largest(), toy.space.smallest()]
    assert len(set(asked)) == 20


def test_same_seed_same_configs_and_another_seed_others() -> None:
    toy = Toy()
    assert drive(Nsga2(), toy, 100, 1) == drive(Nsga2(), toy, 100, 1)
    assert drive(Nsga2(), toy, 100, 1) != drive(Nsga2(), toy, 100, 2)


def test_what_it_asks_depends_on_the_history_alone() -> None:
    toy = Toy()
    whole = drive(Nsga2(), toy, 90, 3)
    again = Nsga2().start(Problem(toy.space, 2, 3))
    for config in whole[:57]:
        assert again.ask() == [config]
        again.tell(config, [error(Member(config)), cost(Member(config))], 0)
    for config in whole[57:]:
        assert again.ask() == [config]
        again.tell(config, [error(Member(config)), cost(Member(config))], 0)


def test_nothing_is_proposed_twice_until_the_space_is_exhausted() -> None:
    toy = Toy(choices=3, options=4)
    asked = drive(Nsga2(population=6), toy, 64, 0)
    assert set(asked) == set(toy.space.enumerate())


@pytest.mark.parametrize("choices", [0, 1])
def test_spaces_of_one_config_and_one_choice(choices: int) -> None:
    space = Space([Choice("a", (1, 2, 3))] * choices)
    proposer = Nsga2(population=2).start(Problem(space, 1, 0))
    for _ in range(10):
        [config] = proposer.ask()
        proposer.tell(config, [1.0], 0)
    assert space.feasible(dict(config))


def test_failures_do_not_survive() -> None:
    pool = [individual(0, math.inf, math.inf, violation=math.inf), individual(1, 1.0, 1.0), individual(2, 2.0, 2.0)]
    assert [each.values[0] for each in survivors(pool, 2)] == [1.0, 2.0]


def test_constraints_pull_the_search_to_the_feasible_side() -> None:
    toy = Toy(choices=8)
    asked = drive(Nsga2(), toy, 200, 0, limit=25)
    feasible = [cost(Member(config)) <= 25 for config in asked]
    assert sum(feasible[100:]) > 2 * sum(feasible[:20]) * 5  # per trial, over twice the share of the first population


def test_beats_random_search_at_an_equal_budget() -> None:
    toy = Toy(choices=10, options=5)
    reference = (25.0, 260.0)

    def reached(searcher: Searcher, seed: int) -> float:
        members = [Member(config) for config in drive(searcher, toy, 200, seed)]
        return hypervolume([(error(member), cost(member)) for member in members], reference)

    seeds = range(6)
    evolved = [reached(Nsga2(), seed) for seed in seeds]
    drawn = [reached(RandomSearch(), seed) for seed in seeds]
    assert sum(evolved) > sum(drawn)
    assert sum(a > b for a, b in itertools.product(evolved, drawn)) > 0.9 * 36


def test_bad_settings() -> None:
    with pytest.raises(WrongShapeError, match="at least 2"):
        Nsga2(population=1)
    with pytest.raises(WrongShapeError, match="probability"):
        Nsga2(mutation=2.0)
