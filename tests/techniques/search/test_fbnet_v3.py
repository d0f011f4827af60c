"""FBNetV3's search: what pretraining on free statistics is worth, gradients, budgets, and its front."""

from __future__ import annotations

import dataclasses
import warnings

import numpy as np
import pytest
from scipy.stats import kendalltau

from pliant.checks import WrongShapeError
from pliant.space import Choice, Problem, Space
from pliant.techniques.search._perceptron import Perceptron
from pliant.techniques.search.fbnet_v3 import FbnetV3, Predictor, _Rounds, quasi_random
from pliant.techniques.search.random_search import RandomSearch
from tests.techniques.search.table import Table, draws, drive, reached

QUICK = FbnetV3(first=15, batch=5, rounds=2, candidates=400, hidden=(32, 32), epochs=20)


def rank_correlation(problem: Problem, indices: np.ndarray, errors: np.ndarray, labels: int, seed: int) -> list[float]:
    """Kendall's tau on what has no label, without pretraining and with."""
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(indices))
    known, fresh = order[:labels], order[labels:]
    found = []
    for pretrained in (False, True):
        settings = FbnetV3(candidates=400, hidden=(64, 64), epochs=40, pretrained=pretrained)
        predictor = Predictor(settings, problem, np.random.default_rng(seed))
        predictor.fit(indices[known], errors[known, None], np.zeros(labels))
        found.append(float(kendalltau(predictor(indices[fresh])[0][:, 0], errors[fresh])[0]))
    return found


@pytest.mark.slow
def test_pretraining_on_a_free_cost_ranks_better_from_twenty_labels() -> None:
    table = Table(12, 4)
    problem = Problem(table.space, 1, 0, statistics={"macs": table.cost})
    indices = table.space.indices(draws(table.space, 150))
    found = np.array([rank_correlation(problem, indices, table.error(indices), 20, seed) for seed in range(4)])
    plain, pretrained = found.mean(axis=0)
    assert pretrained > plain + 0.05
    assert pretrained > 0.4


@pytest.mark.slow
def test_pretraining_ranks_trained_networks_better() -> None:
    """Sixty perceptrons with a recipe each, trained on scikit-learn's digits; multiplications are free to compute."""
    from sklearn.datasets import load_digits
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.neural_network import MLPClassifier

    space = Space(
        [
            *(Choice(f"width.{at}", (2, 4, 8, 16, 32)) for at in range(3)),
            Choice("rate", (0.001, 0.003, 0.01)),
            Choice("decay", (1e-5, 1e-2)),
        ]
    )
    x, y = load_digits(return_X_y=True)
    x = x / 16

    def error(config: object) -> float:
        options = dict(config)  # type: ignore[call-overload]
        widths = [options[f"width.{at}"] for at in range(3)]
        net = MLPClassifier(
            widths, learning_rate_init=options["rate"], alpha=options["decay"], max_iter=12, random_state=0
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            return 100 - 100 * float(net.fit(x[:1000], y[:1000]).score(x[1000:], y[1000:]))

    sizes = np.array([2, 4, 8, 16, 32])

    def macs(indices: np.ndarray) -> np.ndarray:
        first, second, third = (sizes[indices[:, at]] for at in range(3))
        return 64.0 * first + first * second + second * third + 10 * third

    configs = draws(space, 60)
    errors = np.array([error(config) for config in configs])
    problem = Problem(space, 1, 0, statistics={"macs": macs})
    found = np.array([rank_correlation(problem, space.indices(configs), errors, 20, seed) for seed in range(8)])
    plain, pretrained = found.mean(axis=0)
    assert pretrained > plain


def test_the_gradient_against_differences() -> None:
    rng = np.random.default_rng(0)
    net = Perceptron((5, 7, 6, 2), rng)
    features, targets = rng.normal(size=(4, 5)), 3 * rng.normal(size=(4, 2))  # both arms of Huber's loss
    gradients = net.gradient(features, targets)[1]
    for parameter, gradient in zip(net.parameters, gradients, strict=True):
        for place in range(parameter.size):
            at = np.unravel_index(place, parameter.shape)
            losses = []
            for step in (1e-6, -2e-6):
                parameter[at] += step
                losses.append(net.gradient(features, targets)[0])
            parameter[at] += 1e-6
            assert gradient[at] == pytest.approx((losses[0] - losses[1]) / 2e-6, rel=1e-4, abs=1e-8)


def test_a_new_head_keeps_the_layers_below_and_frozen_ones_stay() -> None:
    rng = np.random.default_rng(0)
    net = Perceptron((5, 7, 6, 2), rng)
    made = net.reheaded(3, rng)
    assert [len(bias) for bias in made.biases] == [7, 6, 3]
    below = [weight.copy() for weight in made.weights[:2]]
    np.testing.assert_array_equal(below[1], net.weights[1])
    made.fit(rng.normal(size=(20, 5)), rng.normal(size=(20, 3)), 5, rng, frozen=2)
    np.testing.assert_array_equal(made.weights[0], below[0])
    made.fit(rng.normal(size=(20, 5)), rng.normal(size=(20, 3)), 5, rng)
    assert not np.array_equal(made.weights[0], below[0])
    np.testing.assert_array_equal(net.weights[0], below[0])  # and the encoder is nobody's but its own


@pytest.mark.parametrize("limit", [8.0, 11.0])
def test_what_is_asked_keeps_the_budget(limit: float) -> None:
    table = Table(8, 4)
    problem = table.problem(violation=lambda indices: np.maximum(table.cost(indices) - limit, 0))
    asked = drive(QUICK.start(problem), 50, table.values)
    assert table.values(asked)[:, 1].max() <= limit


def test_a_search_on_the_predictor_keeps_its_budget_and_approaches_the_best_of_it() -> None:
    table = Table(6, 4)
    rounds = _Rounds(QUICK, table.problem(exact={1: table.cost}))
    everything = table.space.indices(list(table.space.enumerate()))
    rounds._predictor.fit(everything[::40], table.values(table.space.configs(everything[::40])), np.zeros(103))
    for budget in (7.0, 12.0):
        start = quasi_random(table.space, 64, np.random.default_rng(1))
        seen, score = rounds.search(start, 1, budget, np.random.default_rng(0))
        winner = seen[score.argmin()][None]
        assert table.cost(winner)[0] <= budget
        predicted = rounds._predictor(everything[table.cost(everything) <= budget])[0][:, 0]
        assert np.mean(predicted < rounds._predictor(winner)[0][0, 0]) < 0.02


def test_quasi_random_draws_are_even() -> None:
    space = Space([Choice(f"c{at}", tuple(range(4))) for at in range(5)])
    counts = [np.bincount(column, minlength=4) for column in quasi_random(space, 64, np.random.default_rng(0)).T]
    assert np.ptp(counts) == 0  # an even draw would have a spread of about 14


@pytest.mark.slow
def test_a_better_front_than_random_search() -> None:
    table = Table(10, 4)
    more = {"exact": {1: table.cost}}
    found = [reached(QUICK, table, 60, seed, **more) for seed in range(3)]
    assert np.mean(found) > np.mean([reached(RandomSearch(), table, 180, seed) for seed in range(3)])


def test_bad_settings() -> None:
    with pytest.raises(WrongShapeError, match="first is at least 2"):
        FbnetV3(first=1)
    with pytest.raises(WrongShapeError, match="at least one layer"):
        dataclasses.replace(QUICK, hidden=())
