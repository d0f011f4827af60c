"""The benchmark of searchers: its fronts against brute force, its peers against their own rules."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from random import Random

import numpy as np
import pytest
from benchmarks.search import figures, macro, one, reached, synthetic
from benchmarks.search.case import Case
from benchmarks.search.methods import METHODS

from pliant.space.front import hypervolume, non_dominated


def small(noise: float = 0.0) -> Case:
    return synthetic.make(choices=5, seed=3, noise=noise)


def everything(case: Case) -> np.ndarray:
    return case.truth(case.space.indices(list(case.space.enumerate())))


def test_the_front_of_the_formula_against_brute_force() -> None:
    case = small()
    values = everything(case)
    expected = np.unique(values[non_dominated(values)], axis=0)
    assert np.unique(case.front, axis=0) == pytest.approx(expected)
    assert case.best == pytest.approx(hypervolume(case.scaled(values), np.ones(2)))


def test_regrets_fall_to_nothing() -> None:
    case = small()
    values = everything(case)
    regrets = case.regrets(values)
    assert (np.diff(regrets) <= 1e-12).all()
    assert regrets[-1] == pytest.approx(0, abs=1e-12)
    for count in (1, 10, 100):
        assert regrets[count - 1] == pytest.approx(case.best - hypervolume(case.scaled(values[:count]), np.ones(2)))
    assert case.share(values) == 1
    assert reached(regrets[None], regrets[7])[0] <= 8
    assert reached(regrets[None], -1.0)[0] == np.inf


def test_noise_is_the_same_for_one_seed() -> None:
    case = small(noise=0.1)
    config = case.space.largest()
    first, truth = case.measured(config, 0)
    assert first == case.measured(config, 0)[0]
    assert first[0] != case.measured(config, 1)[0][0]
    assert first[0] != truth[0]
    assert first[1] == truth[1]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["bayesian", "random", "pymoo-nsga2-20", "pymoo-age-moea-20", "optuna-nsga2"])
def test_methods_measure_each_network_once(name: str) -> None:
    case = small()
    record = one(case, name, 0, 50)
    assert len(record["values"]) == 50
    again = one(case, name, 0, 50)
    assert again["values"] == record["values"]
    found = figures(case, name, [record])
    assert found[0].facts["seeds"] == 1
    assert found[0].value == case.regrets(np.array(record["values"]))[49]


def test_every_method_can_be_made() -> None:
    case = small()
    for name, make in METHODS.items():
        assert case.space.feasible(make(case, 0).ask()), name


@pytest.mark.slow
def test_reading_the_table_of_nas_bench_macro(tmp_path: Path, rng: Random) -> None:
    keys = ["".join(digits) for digits in itertools.product("012", repeat=8)]
    table = {
        key: {"mean_acc": 80 + sum(map(int, key)) / 2, "flops": 1000 + int(key, 3), "params": 10 + int(key, 3)}
        for key in keys
    }
    path = tmp_path / "table.json"
    path.write_text(json.dumps(table))
    case = macro.load(path)
    rows = case.space.indices([case.space.sample(rng) for _ in range(50)])
    written = ["".join(map(str, row)) for row in rows]
    assert case.truth(rows).tolist() == [[100 - table[key]["mean_acc"], table[key]["flops"]] for key in written]
    assert case.statistics["params"](rows).tolist() == [table[key]["params"] for key in written]
    assert case.canonical is not None
    same = case.canonical(rows)
    for stage in ((0,), (1,), (2,), (3, 4), (5,), (6, 7)):  # identities move within these
        assert np.array_equal(np.sort(same[:, stage], axis=1), np.sort(rows[:, stage], axis=1))
    whole = np.array(list(itertools.product(range(3), repeat=8)))
    assert len(np.unique(case.canonical(whole), axis=0)) == 3969
