"""Bayesian optimisation of the front: its parts against brute force, its search against random search."""

from __future__ import annotations

import itertools
import math
from random import Random

import numpy as np
import pytest

from pliant import catalog
from pliant.checks import WrongShapeError
from pliant.space import Choice, Config, Forms, Problem, Space
from pliant.space.front import hypervolume, non_dominated
from pliant.technique import Proposer, Searcher
from pliant.techniques.search import _beliefs
from pliant.techniques.search._features import Features, alike
from pliant.techniques.search._gp import GaussianProcess, distances
from pliant.techniques.search._improvement import Belief, Exact, LogNormal, Normal, boxes, expected_improvement
from pliant.techniques.search.bayesian import Bayesian
from pliant.techniques.search.random_search import RandomSearch
from tests.study.toy import Member, Toy, cost, error


def points(count: int, objectives: int, seed: int) -> np.ndarray:
    found = np.random.default_rng(seed).random((count, objectives))
    return found[non_dominated(found)]


# ---- the improvement ----------------------------------------------------------------------------------------------
@pytest.mark.parametrize("objectives", [1, 2, 3, 4])
def test_boxes_are_disjoint_and_hold_what_is_not_dominated(objectives: int) -> None:
    front, reference = points(12, objectives, objectives), np.ones(objectives)
    lower, upper = boxes(front, reference)
    for place in np.random.default_rng(9).uniform(-0.5, 1.0, (400, objectives)):
        held = ((lower < place) & (place <= upper)).all(axis=1).sum()
        dominated = (front <= place).all(axis=1).any()
        assert held == (0 if dominated else 1)


@pytest.mark.parametrize("objectives", [1, 2, 3])
def test_improvement_of_known_values_is_the_gain_in_hypervolume(objectives: int) -> None:
    front, reference = points(10, objectives, objectives), np.full(objectives, 0.9)
    lower, upper = boxes(front, reference)
    candidates = np.random.default_rng(5).random((50, objectives))
    beliefs: list[Belief] = [Exact(candidates[:, at]) for at in range(objectives)]
    gains = expected_improvement(beliefs, lower, upper)
    before = hypervolume(front, reference)
    for candidate, gain in zip(candidates, gains, strict=True):
        assert gain == pytest.approx(hypervolume(np.vstack([front, candidate]), reference) - before, abs=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("kinds", list(itertools.product(["exact", "normal", "log-normal"], repeat=2)))
def test_expected_improvement_against_samples(kinds: tuple[str, str]) -> None:
    rng = np.random.default_rng(3)
    front, reference = points(8, 2, 4), np.array([1.0, 1.1])
    lower, upper = boxes(front, reference)
    before, drawn, beliefs = hypervolume(front, reference), [], list[Belief]()
    for kind in kinds:
        if kind == "exact":
            beliefs.append(Exact(np.array([0.3])))
            drawn.append(np.full(4000, 0.3))
        elif kind == "normal":
            beliefs.append(Normal(np.array([0.35]), np.array([0.2])))
            drawn.append(rng.normal(0.35, 0.2, 4000))
        else:
            beliefs.append(LogNormal(np.array([-1.0]), np.array([0.4])))
            drawn.append(np.exp(rng.normal(-1.0, 0.4, 4000)))
    gains = [hypervolume(np.vstack([front, each]), reference) - before for each in np.stack(drawn, axis=1)]
    expected = expected_improvement(beliefs, lower, upper)[0]
    assert expected == pytest.approx(np.mean(gains), abs=float(4 * np.std(gains) / math.sqrt(len(gains)) + 1e-12))


# ---- the model ----------------------------------------------------------------------------------------------------
def test_the_gradient_of_the_loss() -> None:
    rng = np.random.default_rng(0)
    features, values = rng.random((15, 6)), rng.standard_normal(15)
    groups = [slice(0, 4), slice(4, 6)]
    squares = distances(groups, features, features)
    process = GaussianProcess([4, 2], overlap=4)
    theta = process.theta + 0.1 * rng.standard_normal(len(process.theta))
    _, gradient = process.loss(theta, squares, values)
    for at in range(len(theta)):
        step = np.zeros(len(theta))
        step[at] = 1e-4
        slope = (process.loss(theta + step, squares, values)[0] - process.loss(theta - step, squares, values)[0]) / 2e-4
        assert gradient[at] == pytest.approx(slope, rel=1e-5, abs=1e-5)


def test_predictions_against_the_textbook() -> None:
    from sklearn.gaussian_process import GaussianProcessRegressor
    from sklearn.gaussian_process.kernels import ConstantKernel, Matern, WhiteKernel

    rng = np.random.default_rng(1)
    features, asked = rng.random((20, 3)), rng.random((30, 3))
    values = np.sin(features.sum(axis=1)) * 3 + 7
    groups = [slice(0, 3)]
    process = GaussianProcess([3])
    process.theta = np.array([-0.2, 0.3, 0.0, -2.0])
    process.fit(distances(groups, features, features), values)
    mean, deviation = process.predict(distances(groups, asked, features))
    kernel = ConstantKernel(math.exp(0.6)) * Matern(math.exp(-0.2), nu=2.5) + ConstantKernel(10.0)
    noisy = kernel + WhiteKernel(math.exp(-4.0) + 1e-9)
    scaled = (values - values.mean()) / values.std()
    textbook = GaussianProcessRegressor(noisy, optimizer=None, alpha=0.0).fit(features, scaled)
    expected, spread = textbook.predict(asked, return_std=True)
    assert mean == pytest.approx(expected * values.std() + values.mean(), abs=1e-6)
    variance = spread**2 - (math.exp(-4.0) + 1e-9)  # ours is without the noise of a new measurement
    assert deviation == pytest.approx(np.sqrt(variance) * values.std(), abs=1e-5)


def test_likely_hyperparameters_are_found() -> None:
    rng = np.random.default_rng(2)
    features = rng.random((60, 4))
    values = 5.0 * features[:, 0] + 0.01 * rng.standard_normal(60)  # the second group says nothing
    squares = distances([slice(0, 2), slice(2, 4)], features, features)
    process = GaussianProcess([2, 2])
    process.fit(squares, values, iterations=100)
    assert process.theta[1] > process.theta[0] + 0.5
    assert process.theta[-1] < -2.5


# ---- the features -------------------------------------------------------------------------------------------------
def test_choices_that_play_one_role() -> None:
    names = [f"stages.{s}.layers.{at}.width" for s in range(2) for at in range(2)] + ["depth"]
    groups = alike([Choice(name, (1, 2, 3)) for name in names])
    assert [group.tolist() for group in groups] == [[0, 1], [2, 3], [0, 1, 2, 3]]
    long = alike([Choice(f"layers.{at}.width", (1, 2)) for at in range(9)])
    assert [group.tolist() for group in long] == [[0, 1, 2], [3, 4, 5], [6, 7, 8], list(range(9))]


def test_equal_networks_have_equal_features_and_idle_choices_count_nothing() -> None:
    space = Space([Choice("keep", (0, 1)), Choice("layers.0.width", (1, 2, 3)), Choice("layers.1.width", (1, 2, 3))])

    def active(rows: np.ndarray) -> np.ndarray:
        found = np.ones(rows.shape, dtype=bool)
        found[:, 2] = rows[:, 0] == 1
        return found

    rows = space.indices(list(space.enumerate()))
    features = Features(Problem(space, forms=Forms(lambda rows: rows, active)), rows)(rows)
    idle = features[rows[:, 0] == 0]
    assert len(np.unique(idle, axis=0)) == 3  # whatever layers.1.width is
    assert len(np.unique(features, axis=0)) == 3 + 9


def test_costs_are_features_where_they_vary() -> None:
    space = Space([Choice("a", (1, 2, 3, 4))])
    rows = space.indices(list(space.enumerate()))
    statistics = {"macs": lambda at: 10.0 ** at[:, 0], "same": lambda at: np.ones(len(at))}
    features = Features(Problem(space, statistics=statistics), rows)
    assert features(rows)[:, -1] == pytest.approx([0.0, 2 / 3, 4 / 3, 2.0])
    assert features(rows).shape[1] == 4 + 1 + 1
    assert Features(Problem(space, statistics=statistics), rows, statistics=False)(rows).shape[1] == 4 + 1


# ---- the search ---------------------------------------------------------------------------------------------------
def toy_problem(toy: Toy, seed: int, exact: bool = True) -> Problem:
    def costs(rows: np.ndarray) -> np.ndarray:
        return np.array([cost(Member(config)) for config in toy.space.configs(rows)])

    return Problem(toy.space, 2, seed, exact={1: costs} if exact else {})


def drive(proposer: Proposer, budget: int, limit: float = math.inf) -> list[Config]:
    asked = []
    for _ in range(budget):
        [config] = proposer.ask()
        asked.append(config)
        member = Member(config)
        proposer.tell(config, [error(member), cost(member)], max(0.0, cost(member) / limit - 1))
    return asked


def reached(asked: list[Config]) -> float:
    values = np.array([(error(Member(config)), cost(Member(config))) for config in asked])
    return hypervolume(values, np.array([25.0, 260.0]))


@pytest.mark.slow
def test_needs_a_quarter_of_the_measurements_of_random_search() -> None:
    toy = Toy(choices=10, options=5)
    guided = [reached(drive(Bayesian(candidates=200).start(toy_problem(toy, seed)), 30)) for seed in range(3)]
    drawn = [reached(drive(RandomSearch().start(Problem(toy.space, 2, seed)), 120)) for seed in range(3)]
    assert min(guided) > max(drawn)


@pytest.mark.slow
def test_without_known_costs() -> None:
    toy = Toy(choices=10, options=5)
    guided = reached(drive(Bayesian(candidates=200).start(toy_problem(toy, 0, exact=False)), 30))
    assert guided > reached(drive(RandomSearch().start(Problem(toy.space, 2, 0)), 60))


def test_the_first_configs_are_the_ends_and_some_between() -> None:
    toy = Toy(choices=10, options=5)
    asked = drive(Bayesian(spread=3).start(toy_problem(toy, 0)), 5)
    assert asked[:2] == [toy.space.largest(), toy.space.smallest()]
    costs = [cost(Member(config)) for config in asked[2:]]
    assert costs == sorted(costs)
    assert len(set(costs)) == 3


@pytest.mark.slow
def test_same_seed_same_configs_also_when_told_anew() -> None:
    toy = Toy()
    whole = drive(Bayesian(candidates=100).start(toy_problem(toy, 1)), 12)
    assert whole == drive(Bayesian(candidates=100).start(toy_problem(toy, 1)), 12)
    assert whole != drive(Bayesian(candidates=100).start(toy_problem(toy, 2)), 12)


def test_configs_in_flight_are_not_asked_for_again() -> None:
    toy = Toy()
    proposer = Bayesian(candidates=100).start(toy_problem(toy, 0))
    drive(proposer, 6)
    asked = proposer.ask(5)
    assert len(set(asked)) == 5
    for config in asked[::-1]:  # they come back in any order
        proposer.tell(config, [error(Member(config)), cost(Member(config))])
    assert proposer.ask()[0] not in asked


def test_finds_every_config_of_a_small_space() -> None:
    toy = Toy(choices=3, options=3)
    assert set(drive(Bayesian().start(toy_problem(toy, 0)), 27)) == set(toy.space.enumerate())


@pytest.mark.parametrize("choices", [0, 1])
def test_spaces_of_one_config_and_one_choice(choices: int) -> None:
    space = Space([Choice("a", (1, 2, 3))] * choices)
    proposer = Bayesian().start(Problem(space, 1, 0))
    for _ in range(6):
        [config] = proposer.ask()
        proposer.tell(config, [1.0])
    assert space.feasible(dict(config))


@pytest.mark.slow
def test_three_objectives_and_unordered_choices(rng: Random) -> None:
    space = Space([Choice(f"c{at}", ("a", "b", "c"), ordered=False) for at in range(6)])
    weights = np.random.default_rng(0).random((3, 6, 3))

    def values(config: Config) -> list[float]:
        row = space.indices([config])[0]
        return [float(each[np.arange(6), row].sum()) for each in weights]

    def found(searcher: Searcher) -> float:
        proposer = searcher.start(Problem(space, 3, 0))
        seen = []
        for _ in range(25):
            [config] = proposer.ask()
            seen.append(values(config))
            proposer.tell(config, seen[-1])
        return hypervolume(np.array(seen), np.full(3, 5.0))

    assert found(Bayesian(candidates=150)) > found(RandomSearch())


@pytest.mark.slow
def test_constraints_on_measured_values_are_learnt() -> None:
    toy = Toy(choices=8)
    asked = drive(Bayesian(candidates=150).start(toy_problem(toy, 0)), 30, limit=25)
    feasible = [cost(Member(config)) <= 25 for config in asked]
    assert np.mean(feasible[10:]) > 0.6
    drawn = [cost(Member(toy.space.sample(Random(at)))) <= 25 for at in range(200)]
    assert np.mean(drawn) < 0.3


@pytest.mark.slow
def test_constraints_on_counted_values_are_kept_from_the_start() -> None:
    toy = Toy(choices=8)
    exact = toy_problem(toy, 0)
    problem = Problem(toy.space, 2, 0, exact.exact, violation=lambda rows: np.maximum(exact.exact[1](rows) / 25 - 1, 0))
    asked = drive(Bayesian(candidates=150).start(problem), 20, limit=25)
    assert all(cost(Member(config)) <= 25 for config in asked)


@pytest.mark.slow
def test_objectives_that_are_all_computed() -> None:
    toy = Toy(choices=5)
    exact = toy_problem(toy, 0).exact[1]

    def errors(rows: np.ndarray) -> np.ndarray:
        return np.array([error(Member(config)) for config in toy.space.configs(rows)])

    asked = drive(Bayesian(candidates=100).start(Problem(toy.space, 2, 0, exact={0: errors, 1: exact})), 25)
    assert reached(asked) > reached(drive(RandomSearch().start(Problem(toy.space, 2, 0)), 100))


@pytest.mark.slow
def test_more_measurements_than_are_modelled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_beliefs, "_MODELLED", 20)
    toy = Toy(choices=6)
    asked = drive(Bayesian(candidates=60).start(toy_problem(toy, 0)), 60)
    assert len(set(asked)) == 60
    assert reached(asked) > reached(asked[:20])


@pytest.mark.slow
def test_four_objectives() -> None:
    space = Space([Choice(f"c{at}", tuple(range(5))) for at in range(6)])
    weights = np.random.default_rng(0).random((4, 6))
    proposer = Bayesian(candidates=80).start(Problem(space, 4, 0))
    for _ in range(12):
        [config] = proposer.ask()
        row = space.indices([config])[0]
        proposer.tell(config, [float(each @ np.abs(row - at)) for at, each in enumerate(weights)])


@pytest.mark.slow
def test_failures_are_avoided_and_do_no_harm() -> None:
    toy = Toy(choices=6)
    proposer = Bayesian(candidates=100).start(toy_problem(toy, 0))
    failed = []
    for _ in range(25):
        [config] = proposer.ask()
        broken = config["layer.0"] in (3, 4, 5)
        failed.append(broken)
        member = Member(config)
        values = [math.inf, math.inf] if broken else [error(member), cost(member)]
        proposer.tell(config, values, math.inf if broken else 0.0)
    assert 0 < sum(failed) <= 5  # of 25, where chance would give 15


def test_all_failures_and_no_values() -> None:
    toy = Toy()
    proposer = Bayesian().start(toy_problem(toy, 0))
    asked = []
    for _ in range(8):
        [config] = proposer.ask()
        asked.append(config)
        proposer.tell(config, [math.inf, math.inf], math.inf)
    assert len(set(asked)) == 8


@pytest.mark.slow
def test_noise_is_smoothed() -> None:
    toy = Toy(choices=8)
    proposer = Bayesian(candidates=150).start(toy_problem(toy, 0))
    rng = np.random.default_rng(0)
    asked = []
    for _ in range(30):
        [config] = proposer.ask()
        asked.append(config)
        member = Member(config)
        proposer.tell(config, [error(member) * math.exp(0.1 * rng.standard_normal()), cost(member)])
    assert reached(asked) > reached(drive(RandomSearch().start(Problem(toy.space, 2, 0)), 60))


def test_a_config_told_again_has_its_new_values() -> None:
    toy = Toy(choices=4)
    proposers = [Bayesian(candidates=50).start(toy_problem(toy, 0)) for _ in range(2)]
    for proposer, first in zip(proposers, (5.0, 9.0), strict=True):
        for config in proposer.ask(4):
            member = Member(config)
            proposer.tell(config, [first * error(member), cost(member)])
            proposer.tell(config, [error(member), cost(member)])
    assert proposers[0].ask() == proposers[1].ask()


def test_bad_settings() -> None:
    for bad, words in (
        ({"spread": -1}, "spread"),
        ({"candidates": 0}, "candidates"),
        ({"bold": -1}, "bold"),
        ({"exploration": 0.0}, "above 0"),
    ):
        with pytest.raises(WrongShapeError, match=words):
            Bayesian(**bad)


def test_is_the_default() -> None:
    assert catalog.default("search") == Bayesian()
