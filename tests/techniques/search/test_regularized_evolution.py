"""Regularised evolution: who dies, who has children, and that it finds better configs than random search."""

from __future__ import annotations

import math

import numpy as np
import pytest

from pliant.checks import WrongShapeError
from pliant.space import Config, Problem
from pliant.technique import Searcher
from pliant.techniques.search.random_search import RandomSearch
from pliant.techniques.search.regularized_evolution import RegularizedEvolution
from tests.techniques.search.table import Table, draws, drive, reached


def apart(a: Config, b: Config) -> int:
    return sum(a[name] != b[name] for name in a)


def test_the_oldest_dies_however_good() -> None:
    table = Table(8, 4)
    proposer = RegularizedEvolution(population=10, sample=3).start(Problem(table.space, 1, 0))
    asked = []
    for number in range(40):
        [config] = proposer.ask()
        asked.append(config)
        proposer.tell(config, [float(number)])  # the first is the best of all
        assert proposer.alive == asked[-10:]  # type: ignore[attr-defined]


def test_a_child_differs_from_a_living_parent_in_one_choice() -> None:
    table = Table(12, 4)
    asked = drive(RegularizedEvolution(population=10, sample=4).start(table.problem()), 60, table.values)
    away = [min(apart(asked[number], other) for other in asked[number - 10 : number]) for number in range(10, 60)]
    assert away.count(1) > 40  # the others were known, and changed once more
    assert max(away) <= 3


def test_the_whole_sample_makes_it_greedy() -> None:
    table = Table(12, 4)
    proposer = RegularizedEvolution(population=200, sample=200).start(Problem(table.space, 1, 0))
    known = draws(table.space, 200)
    values = table.values(known)[:, 0]
    for config, value in zip(known, values, strict=True):
        proposer.tell(config, [value])
    best = sorted(known, key=lambda config: table.values([config])[0, 0])
    children = proposer.ask(20)
    nearest = [min(range(200), key=lambda at: apart(child, best[at])) for child in children]
    assert np.median(nearest) <= 1


def test_failures_never_live() -> None:
    table = Table(5, 3)
    proposer = RegularizedEvolution(population=6, sample=3).start(table.problem())
    for number in range(40):
        [config] = proposer.ask()
        failed = number % 3 == 0
        proposer.tell(config, [math.inf] * 2 if failed else table.values([config])[0].tolist(), math.inf * failed or 0)
        assert not failed or config not in proposer.alive  # type: ignore[attr-defined]


@pytest.mark.slow
def test_beats_random_search() -> None:
    table = Table(10, 4)
    searcher = RegularizedEvolution(population=25, sample=8)

    def best(searcher: Searcher, seed: int) -> float:
        asked = drive(searcher.start(Problem(table.space, 1, seed)), 120, lambda c: table.values(c)[:, :1])
        return float(table.values(asked)[:, 0].min())

    assert max(best(searcher, seed) for seed in range(4)) < min(best(RandomSearch(), seed) for seed in range(4))
    fronts = [reached(searcher, table, 160, seed) for seed in range(4)]
    assert np.mean(fronts) > max(reached(RandomSearch(), table, 160, seed) for seed in range(4))


def test_bad_settings() -> None:
    with pytest.raises(WrongShapeError, match="from 1 to population"):
        RegularizedEvolution(population=10, sample=11)
