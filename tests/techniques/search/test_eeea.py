"""EEEA-Net's search: nothing too large at the start, elitism, and a better front than random search."""

from __future__ import annotations

import numpy as np
import pytest

from pliant.checks import UnknownNameError, WrongShapeError
from pliant.space import Problem
from pliant.space.front import hypervolume, non_dominated
from pliant.techniques.search.eeea import Eeea
from pliant.techniques.search.random_search import RandomSearch
from tests.techniques.search.table import Table, drive, reached


@pytest.mark.parametrize("limit", [None, 20.0, 6.0])
def test_nothing_of_the_first_population_exceeds_the_threshold(limit: float | None) -> None:
    table = Table(14, 4)
    asked = Eeea(population=30, limit=limit).start(table.problem()).ask(30)
    cost = table.cost(table.space.indices(asked))
    assert cost.max() <= (table.cost(table.space.indices([table.space.largest()]))[0] / 2 if limit is None else limit)
    assert len(set(asked)) == 30
    assert len(np.unique(cost)) > 10


def test_children_may_grow_beyond_it() -> None:
    table = Table(8, 4)
    asked = drive(Eeea(population=10, limit=8.0).start(table.problem()), 80, table.values)
    assert table.values(asked)[:, 1].max() > 8


def test_a_front_that_fits_survives_whole() -> None:
    table = Table(6, 3)
    proposer = Eeea(population=40).start(table.problem())
    reference = table.values([table.space.smallest(), table.space.largest()]).max(axis=0) + 1
    before = 0.0
    drive(proposer, 40, table.values)
    for _ in range(6):
        measured = table.values(list(proposer.told))  # type: ignore[attr-defined]
        [config] = proposer.ask()  # selects the survivors
        alive = table.values(proposer._parents)  # type: ignore[attr-defined]
        proposer.tell(config, table.values([config])[0].tolist())
        drive(proposer, 39, table.values)
        volume = hypervolume(alive, reference)
        if non_dominated(measured).sum() <= 40:
            assert volume == pytest.approx(hypervolume(measured, reference))
        assert volume >= before
        before = volume


def test_a_better_front_than_random_search() -> None:
    table = Table(10, 4)
    found = [reached(Eeea(), table, 120, seed) for seed in range(4)]
    assert min(found) > max(reached(RandomSearch(), table, 120, seed) for seed in range(4))


def test_the_cost_is_named_or_an_exact_objective() -> None:
    table = Table(8, 4)
    problem = Problem(table.space, 2, 0, exact={1: table.cost})
    assert table.cost(table.space.indices(Eeea(limit=9.0).start(problem).ask(20))).max() <= 9
    with pytest.raises(UnknownNameError, match="did you mean 'macs'"):
        Eeea(statistic="mac").start(table.problem())


def test_bad_settings() -> None:
    with pytest.raises(WrongShapeError, match="at least 2"):
        Eeea(population=1)
    with pytest.raises(WrongShapeError, match="the smallest config has 1.0; raise it"):
        Eeea(limit=0.5).start(Table(4, 3).problem())
