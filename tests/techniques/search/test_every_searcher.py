"""What every searcher of the catalogue does, whatever its method; a new one is held to it by its file alone."""

from __future__ import annotations

import dataclasses
import math
import random
import warnings
from collections.abc import Sequence

import numpy as np
import pytest

from pliant import catalog
from pliant.checks import MissingExtraError
from pliant.space import Choice, Config, Forms, Problem, Space
from pliant.technique import Searcher
from tests.techniques.search.table import Table, drive

NAMES = catalog.names("search")

# Optuna's process takes half a second and more for each config, the others fit models or cross-validate.
SLOW = {"bayesian", "fbnet_v3", "linas", "neural_predictor", "optuna_gp", "weak_predictors"}

QUICK: dict[str, object] = {  # fields, where a class has them, that make it quick; they are not what is tested here
    "inner": 100,
    "population": 10,
    "sample": 4,
    "startup": 4,
    "first": 5,
    "batch": 4,
    "trees": 10,
    "pool": 200,
    "candidates": 24,
    "epochs": 4,
    "top": 6,
    "hidden": 8,
}


def quick(name: str) -> Searcher:
    made = catalog.load(name)()
    assert isinstance(made, Searcher)
    wanted = {field.name for field in dataclasses.fields(made)} & set(QUICK)  # type: ignore[arg-type]
    values = {field: QUICK[field] for field in wanted}
    if name in SLOW and "startup" in wanted:
        values["startup"] = 11  # most proposals of these tests are random ones then, and the last few are not
    if "hidden" in values and isinstance(made.hidden, tuple):  # type: ignore[attr-defined]
        values["hidden"] = (8,)
    return dataclasses.replace(made, **values)  # type: ignore[type-var]


def spaces() -> list[Space]:
    return [Space([]), Space([Choice("one", (1, 2, 3))]), Space([Choice("a", ("x",)), Choice("b", (1, 2), False)])]


@pytest.fixture(params=[pytest.param(name, marks=[pytest.mark.slow] * (name in SLOW)) for name in NAMES])
def searcher(request: pytest.FixtureRequest) -> Searcher:
    made = quick(request.param)
    try:
        made.start(Problem(Space([])))
    except MissingExtraError as error:
        pytest.skip(str(error))
    return made


@pytest.mark.slow
def test_same_history_same_configs_and_no_global_state(searcher: Searcher) -> None:
    table = Table(5, 3, categorical=2)
    random.seed(1)
    np.random.seed(1)  # noqa: NPY002
    first = drive(searcher.start(table.problem(3)), 15, table.values)
    random.seed(2)
    np.random.seed(2)  # noqa: NPY002
    states = random.getstate(), np.random.get_state()[1].tolist()  # type: ignore[index]  # noqa: NPY002
    assert drive(searcher.start(table.problem(3)), 15, table.values) == first
    assert (random.getstate(), np.random.get_state()[1].tolist()) == states  # type: ignore[index]  # noqa: NPY002
    assert len(set(first)) == 15
    other = searcher.start(table.problem(4))
    assert any(drive(other, 1, table.values) != [config] for config in first)  # until they part, which is soon


@pytest.mark.parametrize("space", spaces(), ids=repr)
def test_every_config_of_a_small_space_once(searcher: Searcher, space: Space) -> None:
    proposer = searcher.start(Problem(space, 1, 0))
    asked = []
    for number in range(space.size):
        [config] = proposer.ask()
        asked.append(config)
        proposer.tell(config, [float(number)])
    assert set(asked) == set(space.enumerate())
    assert all(space.feasible(dict(config)) for config in proposer.ask())  # exhausted: nothing, or something known


@pytest.mark.slow
def test_several_in_flight_are_different_and_none_is_left_out(searcher: Searcher) -> None:
    table = Table(4, 2)
    proposer = searcher.start(table.problem())
    flying: list[Config] = []
    seen: list[Config] = []
    while len(seen) < 16:
        asked = proposer.ask(4)
        assert not set(asked) & set(seen)
        seen += asked
        flying += asked
        assert len(asked) == min(4, 16 - len(seen) + len(asked)) or flying
        for config in flying[::2]:  # in another order than asked
            proposer.tell(config, table.values([config])[0].tolist())
        flying = flying[1::2]
        if not asked and not flying:
            break
    assert len(set(seen)) == 16
    assert flying == [] or proposer.ask(2) == []


def test_learns_what_it_never_asked_and_what_is_told_again(searcher: Searcher) -> None:
    table = Table(4, 3)
    proposer = searcher.start(table.problem())
    known = list(table.space.enumerate())[:60]
    for config in known:
        proposer.tell(config, table.values([config])[0].tolist())
    proposer.tell(known[0], [1.0, 1.0])
    assert not set(proposer.ask(5)) & set(known)


@pytest.mark.slow
def test_what_breaks_a_free_constraint_comes_last(searcher: Searcher) -> None:
    table = Table(4, 3)
    limit = 5.5
    problem = table.problem(violation=lambda indices: np.maximum(table.cost(indices) - limit, 0))
    cheap = int((table.cost(table.space.indices(list(table.space.enumerate()))) <= limit).sum())
    asked = drive(searcher.start(problem), cheap + 3, table.values, lambda values: max(0.0, float(values[1]) - limit))
    assert (table.values(asked)[:cheap, 1] <= limit).all()
    assert (table.values(asked)[cheap:, 1] > limit).all()


@pytest.mark.slow
def test_failures_and_constraints(searcher: Searcher) -> None:
    table = Table(5, 3)
    proposer = searcher.start(table.problem(violation=lambda indices: np.maximum(table.cost(indices) - 9, 0)))
    asked = []
    for number in range(17):
        [config] = proposer.ask()
        [values] = table.values([config])
        if number % 4 == 1:
            proposer.tell(config, [math.inf, math.inf], math.inf)
        else:
            proposer.tell(config, values.tolist(), max(0.0, float(values[1]) - 9) + max(0.0, float(values[0]) - 10))
        asked.append(config)
    assert len(set(asked)) == 17


def test_all_failed(searcher: Searcher) -> None:
    table = Table(4, 3)
    asked = drive(searcher.start(table.problem()), 14, lambda configs: np.full((1, 2), np.inf), lambda values: math.inf)
    assert len(set(asked)) == 14


@pytest.mark.parametrize("objectives", [1, 3])
def test_one_and_three_objectives(searcher: Searcher, objectives: int) -> None:
    table = Table(4, 3)

    def measure(configs: Sequence[Config]) -> np.ndarray:
        values = table.values(configs)
        return np.concatenate([values, values.sum(axis=1, keepdims=True)], axis=1)[:, :objectives]

    asked = drive(searcher.start(Problem(table.space, objectives, 1)), 15, measure)
    assert len(set(asked)) == 15


def test_the_same_network_is_not_proposed_twice(searcher: Searcher) -> None:
    table = Table(4, 3)

    def sort(indices: np.ndarray) -> np.ndarray:
        return np.sort(indices, axis=1)

    asked = drive(searcher.start(table.problem(forms=Forms(sort))), 15, table.values)  # 15 multisets of 4 out of 3
    assert len({tuple(sorted(config.values())) for config in asked}) == 15


@pytest.mark.slow
def test_a_huge_space_of_few_networks_ends(searcher: Searcher) -> None:
    table = Table(24, 3)

    def first_counts(indices: np.ndarray) -> np.ndarray:
        return np.concatenate([indices[:, :1], 0 * indices[:, 1:]], axis=1)

    proposer = searcher.start(table.problem(forms=Forms(first_counts)))
    asked = drive(proposer, 3, table.values)
    assert {config["layer.0"] for config in asked} == {0, 1, 2}
    assert all(table.space.feasible(dict(config)) for config in proposer.ask(2))


def test_keeps_the_constraints_of_the_space(searcher: Searcher) -> None:
    free = Table(4, 4)
    space = Space(free.space.choices, ["layer.0 >= 1", "layer.2 <= 2"])
    asked = drive(searcher.start(Problem(space, 2, 0)), 15, free.values)
    assert all(space.feasible(dict(config)) for config in asked)


def test_starting_is_quiet(searcher: Searcher, capfd: pytest.CaptureFixture[str]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        table = Table(3, 3)
        drive(searcher.start(table.problem()), 12, table.values)
    captured = capfd.readouterr()
    assert captured.out == captured.err == ""
