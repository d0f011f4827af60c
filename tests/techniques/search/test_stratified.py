"""Stratified sampling: even over costs and options, less variance than simple sampling, and a better front."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from pliant.checks import UnknownNameError, WrongShapeError
from pliant.space import Choice, Config, Problem, Space
from pliant.techniques.search._arrays import leaning
from pliant.techniques.search.random_search import RandomSearch
from pliant.techniques.search.stratified import Stratified, hypercube
from tests.techniques.search.table import Table, draws, drive, reached


def strata(table: Table, configs: list[Config], count: int) -> list[int]:
    """How many of ``configs`` lie in each of ``count`` equal ranges of the logarithm of the cost."""
    indices = table.space.indices
    low, high = np.log(table.cost(indices([table.space.smallest(), table.space.largest()])))
    places = (np.log(table.cost(indices(configs))) - low) / (high - low) * count
    return np.bincount(np.clip(places.astype(int), 0, count - 1), minlength=count).tolist()


def test_every_stratum_gets_as_many() -> None:
    table = Table(30, 4)
    asked = Stratified(strata=8).start(table.problem()).ask(40)
    assert strata(table, asked, 8) == pytest.approx([5] * 8, abs=1)
    even = strata(table, draws(table.space, 40), 8)
    assert max(even) > 15  # drawn evenly, they are nearly all of middling cost
    assert sum(count == 0 for count in even) >= 2


def test_every_stratum_of_a_small_space_gets_as_many_or_all_that_it_has() -> None:
    table = Table(5, 4)
    got = strata(table, Stratified(strata=8).start(table.problem()).ask(40), 8)
    members = strata(table, list(table.space.enumerate()), 8)
    share = max(got)
    assert all(count in (share, share - 1) or count == of for count, of in zip(got, members, strict=True))


def test_what_was_told_counts() -> None:
    table = Table(8, 4)
    proposer = Stratified(strata=4).start(table.problem())
    small = sorted(draws(table.space, 400), key=lambda config: table.cost(table.space.indices([config]))[0])[:30]
    for config in small:
        proposer.tell(config, [0.0, 0.0])
    before, after = strata(table, small, 4), strata(table, proposer.ask(12), 4)
    assert before[-1] == 0
    assert after[-1] >= 4


def test_the_cost_is_named_or_the_first_or_an_exact_objective() -> None:
    table = Table(8, 4)

    def backwards(indices: np.ndarray) -> np.ndarray:
        return 1.0 + (indices == 0).sum(axis=1)

    both = {"macs": table.cost, "zeros": backwards}
    named = Stratified(statistic="zeros").start(Problem(table.space, 1, 0, statistics=both)).ask(20)
    assert set(backwards(table.space.indices(named))) >= {1.0, 2.0, 3.0, 5.0, 7.0, 9.0}
    first, exact = (
        Stratified().start(problem).ask(20)
        for problem in (
            Problem(table.space, 1, 0, statistics=both),
            Problem(table.space, 1, 0, exact={0: table.cost}),
        )
    )
    assert first == exact != named
    with pytest.raises(UnknownNameError, match="did you mean 'macs'"):
        Stratified(statistic="mac").start(Problem(table.space, 1, 0, statistics=both))


def test_latin_hypercubes_without_a_cost() -> None:
    space = Space([Choice(f"c{at}", tuple(range(options))) for at, options in enumerate((2, 3, 5, 7, 11, 4, 4))])
    asked = Stratified(strata=20).start(Problem(space, 1, 0)).ask(20)
    for choice in space.choices:
        counts = Counter(config[choice.name] for config in asked)
        assert len(counts) == len(choice.options)
        assert max(counts.values()) - min(counts.values()) <= 1


def test_a_hypercube_estimates_a_monotonic_mean_with_less_variance() -> None:
    table = Table(6, 5)
    true = np.mean([table.cost(table.space.indices([config]))[0] for config in draws(table.space, 4000, 5)])
    rng = np.random.default_rng(0)
    latin = [table.cost(hypercube(table.space, 10, rng)).mean() for _ in range(200)]
    simple = [table.cost(table.space.indices(draws(table.space, 10, seed))).mean() for seed in range(200)]
    assert np.mean(latin) == pytest.approx(true, rel=0.02)
    assert np.var(latin) < 0.05 * np.var(simple)


def test_leaning_draws_reach_both_ends() -> None:
    table = Table(40, 4)
    means = leaning(table.space, 500, np.random.default_rng(0)).mean(axis=1)
    assert means.min() < 0.2
    assert means.max() > 2.8


def test_a_better_front_than_random_search() -> None:
    table = Table(10, 4)
    found = [reached(Stratified(), table, 60, seed) for seed in range(4)]
    assert min(found) > max(reached(RandomSearch(), table, 60, seed) for seed in range(4))


def test_constant_costs_and_failures() -> None:
    table = Table(3, 3)
    problem = Problem(table.space, 1, 0, statistics={"one": lambda indices: np.ones(len(indices))})
    asked = drive(Stratified().start(problem), 27, lambda configs: np.full((1, 1), np.inf))
    assert set(asked) == set(table.space.enumerate())


def test_bad_settings() -> None:
    with pytest.raises(WrongShapeError, match="at least 1"):
        Stratified(strata=0)
