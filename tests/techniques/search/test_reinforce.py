"""The controller: its gradient against enumeration and differences, and what it learns."""

from __future__ import annotations

import math

import numpy as np
import pytest

from pliant.checks import WrongShapeError
from pliant.space import Config, Problem, Space
from pliant.techniques.search._arrays import pool
from pliant.techniques.search.random_search import RandomSearch
from pliant.techniques.search.reinforce import Controller, Reinforce
from tests.techniques.search.table import Table, draws, drive

EIGHTY_ONE = Table(4, 3)


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.fixture
def controller(rng: np.random.Generator) -> Controller:
    made = Controller(EIGHTY_ONE.space, 6, rng)
    for parameter in made.parameters:
        parameter += rng.normal(0, 0.3, parameter.shape)
    return made


def flat(gradients: list[np.ndarray]) -> np.ndarray:
    return np.concatenate([each.ravel() for each in gradients])


def test_the_gradient_against_differences(controller: Controller, rng: np.random.Generator) -> None:
    places = rng.integers(3, size=(5, 4))
    weights = rng.normal(size=5)
    gradients = controller.gradient(places, weights)
    for parameter, gradient in zip(controller.parameters, gradients, strict=True):
        for place in rng.integers(parameter.size, size=8):
            at = np.unravel_index(place, parameter.shape)
            found = []
            for step in (1e-6, -2e-6):
                parameter[at] += step
                found.append(float(weights @ np.log(controller.chances(places))))
            parameter[at] += 1e-6
            assert gradient[at] == pytest.approx((found[0] - found[1]) / 2e-6, rel=1e-4, abs=1e-7)


def test_probabilities_sum_to_one_and_draws_follow_them(controller: Controller, rng: np.random.Generator) -> None:
    everything = pool(EIGHTY_ONE.space, 81, rng)
    chances = controller.chances(everything)
    assert chances.sum() == pytest.approx(1)
    drawn = controller.sample(20_000, rng) @ [27, 9, 3, 1]
    counts = np.bincount(drawn, minlength=81)
    expected = 20_000 * chances[np.argsort(everything @ [27, 9, 3, 1])]
    assert ((counts - expected) ** 2 / expected).sum() < 125  # the 0.1 % tail with 80 degrees of freedom


def test_sampled_gradients_average_to_the_enumerated_one(controller: Controller, rng: np.random.Generator) -> None:
    """On 81 configs: the gradient of the mean reward is known exactly, with a baseline or without."""
    everything = pool(EIGHTY_ONE.space, 81, rng)
    rewards = -EIGHTY_ONE.error(everything)
    chances = controller.chances(everything)
    exact = flat(controller.gradient(everything, chances * rewards))
    mean = float(chances @ rewards)
    np.testing.assert_allclose(flat(controller.gradient(everything, chances * (rewards - mean))), exact, atol=1e-12)

    count = 40_000
    drawn = controller.sample(count, rng)
    sampled = flat(controller.gradient(drawn, (-EIGHTY_ONE.error(drawn) - mean) / count))
    away = np.linalg.norm(sampled - exact)
    assert away < 0.05 * np.linalg.norm(exact)
    few = drawn[:400]
    rough = flat(controller.gradient(few, (-EIGHTY_ONE.error(few) - mean) / 400))
    assert np.linalg.norm(rough - exact) > 3 * away  # the error falls with the root of the number: tenfold


def test_the_entropy_bonus_is_a_gradient(controller: Controller, rng: np.random.Generator) -> None:
    space = Space(EIGHTY_ONE.space.choices[:1])
    one = Controller(space, 6, rng)
    gradient = one.gradient(np.zeros((2, 1), dtype=int), np.zeros(2), entropy=0.7)

    def bonus() -> float:
        chances = one.chances(np.arange(3)[:, None])
        return float(-0.7 * chances @ np.log(chances))

    for place in range(3):
        found = []
        for step in (1e-6, -2e-6):
            one.bias[place] += step
            found.append(bonus())
        one.bias[place] += 1e-6
        assert gradient[3][place] == pytest.approx((found[0] - found[1]) / 2e-6, rel=1e-4, abs=1e-8)


@pytest.mark.slow
def test_the_mean_reward_rises_above_random_search() -> None:
    table = Table(10, 4)

    def measure(configs: object) -> np.ndarray:
        return table.values(configs)[:, :1]  # type: ignore[arg-type]

    late, random = [], []
    for seed in range(3):
        proposer = Reinforce().start(Problem(table.space, 1, seed))
        asked = drive(proposer, 250, measure)
        late.append(measure(asked[200:]).mean())
        random.append(measure(drive(RandomSearch().start(Problem(table.space, 1, seed)), 250, measure)).mean())
    assert max(late) < 0.6 * min(random)  # errors


def test_rewards_of_several_objectives_constraints_and_failures() -> None:
    table = Table(4, 3)
    proposer = Reinforce().start(Problem(table.space, 2, 0))
    configs = list(dict.fromkeys(draws(table.space, 30)))[:6]
    told = [([1.0, 4.0], 0.0), ([2.0, 2.0], 0.0), ([3.0, 3.0], 0.0), ([4.0, 4.0], 0.0), ([0.0, 0.0], 1.0)]
    for config, (values, violation) in zip(configs, told, strict=False):
        proposer.tell(config, values, violation)
    proposer.tell(configs[5], [math.inf] * 2, math.inf)
    rewards = proposer.rewards(configs).tolist()  # type: ignore[attr-defined]
    assert rewards == [0.0, 0.0, -0.5, -1.0, -2.0, -2.0]


def test_a_config_written_again_is_rewarded_from_memory() -> None:
    table = Table(2, 3)
    asked = drive(Reinforce(batch=3, rate=0.3).start(Problem(table.space, 1, 0)), 9, lambda c: table.values(c)[:, :1])
    assert set(asked) == set(table.space.enumerate())
    assert isinstance(asked[0], Config)


def test_bad_settings() -> None:
    with pytest.raises(WrongShapeError, match="rate above 0"):
        Reinforce(rate=0)
    with pytest.raises(WrongShapeError, match="memory"):
        Reinforce(memory=1.0)
