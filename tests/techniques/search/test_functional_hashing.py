"""Functional hashing: equal functions have one hash and are measured once, others have others."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from torch import nn

from pliant.checks import UnknownNameError, WrongShapeError
from pliant.space import Choice, Config, Forms, Problem, Space
from pliant.techniques.search.functional_hashing import Cached, FunctionalHashing, fingerprint
from pliant.techniques.search.regularized_evolution import RegularizedEvolution
from tests.techniques.search.table import Table, drive


def network(seed: int) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(6, 10), nn.ReLU(), nn.Linear(10, 4))


def computed(net: nn.Module) -> np.ndarray:
    batch = torch.linspace(-1, 1, 48).reshape(8, 6)
    return net(batch).detach().numpy()


def test_rewritten_networks_have_one_hash_and_others_another() -> None:
    net = network(0)
    expected = fingerprint(computed(net), 5)

    shuffled, order = network(0), torch.randperm(10)
    with torch.no_grad():
        weight, bias, last, _ = shuffled.parameters()
        weight.copy_(weight[order])
        bias.copy_(bias[order])
        last.copy_(last[:, order])
    assert fingerprint(computed(shuffled), 5) == expected

    assert fingerprint(computed(nn.Sequential(net, nn.Identity())), 5) == expected

    widened = nn.Sequential(nn.Linear(6, 12), nn.ReLU(), nn.Linear(12, 4))
    with torch.no_grad():
        for big, small in zip(widened.parameters(), net.parameters(), strict=True):
            big.zero_()
            big[tuple(slice(size) for size in small.shape)] = small
    assert fingerprint(computed(widened), 5) == expected

    others = {fingerprint(computed(network(seed)), 5) for seed in range(1, 30)}
    assert len(others) == 29
    assert expected not in others


def test_rounding() -> None:
    values = np.array([[1234.0, -2.0], [0.5, 0.0]])
    assert fingerprint(values, 5) == fingerprint(values + 1e-4, 5) == fingerprint(values * [1, 1], 5)
    assert fingerprint(values, 5) != fingerprint(values + 1.0, 5)
    assert fingerprint(values, 5) != fingerprint(values.reshape(4), 5)
    assert fingerprint(-np.zeros(3), 5) == fingerprint(np.zeros(3), 5)
    assert fingerprint(np.array([np.nan, 1.0]), 5) == fingerprint(np.array([np.nan, 1.0]), 5)


def sorted_rows(indices: np.ndarray) -> np.ndarray:
    return np.sort(indices, axis=1)


def exchangeable(configs: Sequence[Config]) -> np.ndarray:
    """An error that does not see in which order the options stand."""
    options = np.sort(SPACE.indices(configs), axis=1)
    return np.asarray(((options - [0, 1, 1, 3, 3]) ** 2).sum(axis=1, keepdims=True) + 1)


SPACE = Space([Choice(f"branch.{at}", (0, 1, 2, 3)) for at in range(5)])


@pytest.mark.slow
def test_evolution_measures_fewer_than_it_runs_and_equal_ones_once() -> None:
    proposer = FunctionalHashing().start(Problem(SPACE, 1, 0, forms=Forms(sorted_rows)))
    assert isinstance(proposer, Cached)
    asked = drive(proposer, 50, exchangeable)
    assert len({tuple(sorted(config.values())) for config in asked}) == 50
    assert proposer.cycles > 100


def test_outputs_may_say_what_is_equal() -> None:
    calls: list[Config] = []

    def outputs(config: Config) -> np.ndarray:
        calls.append(config)
        return np.sort([float(option) for option in config.values()])  # type: ignore[arg-type]

    proposer = FunctionalHashing().around(Problem(SPACE, 1, 0), outputs)
    asked = drive(proposer, 40, exchangeable)
    assert len({tuple(sorted(config.values())) for config in asked}) == 40
    assert len(calls) >= proposer.cycles > 40


def test_the_searcher_inside_learns_all_of_it() -> None:
    hashed = FunctionalHashing().start(Problem(SPACE, 1, 3, forms=Forms(sorted_rows)))
    plain = RegularizedEvolution().start(Problem(SPACE, 1, 3))
    asked = drive(hashed, 30, exchangeable)
    cycled = drive(plain, hashed.cycles, exchangeable)  # type: ignore[attr-defined]
    firsts = {tuple(sorted(config.values())): config for config in reversed(cycled)}
    assert asked == [config for config in cycled if config in firsts.values()]


def test_noisy_values_are_averaged() -> None:
    told: list[tuple[Config, float]] = []

    class Inside:
        """Proposes one config for ever, and notes what it is told."""

        def ask(self, n: int = 1) -> list[Config]:
            return [list(SPACE.enumerate())[len(told) % 5]]

        def tell(self, config: Config, values: object, violation: float = 0.0) -> None:
            told.append((config, values[0]))  # type: ignore[index]

    cached = Cached(Inside(), lambda config: "one", again=1.0, seed=0)
    for value in (1.0, 2.0, 6.0):
        [config] = cached.ask()
        cached.tell(config, [value])
    assert [value for _, value in told] == [1.0, 1.5, 1.5, 3.0, 3.0, 3.0]


def test_twins_in_flight_wait_for_each_other() -> None:
    cached = FunctionalHashing().start(Problem(SPACE, 1, 0, forms=Forms(lambda indices: indices * 0)))
    assert len(cached.ask(5)) == 1
    cached.tell(SPACE.smallest(), [1.0])
    assert cached.ask(5) == []  # all is one


def test_works_around_any_searcher() -> None:
    table = Table(5, 3)
    problem = table.problem(forms=Forms(sorted_rows))
    for name in ("nsga2", "RandomSearch"):
        assert len(set(drive(FunctionalHashing(name).start(problem), 15, table.values))) == 15


def test_bad_settings() -> None:
    with pytest.raises(WrongShapeError, match="probability"):
        FunctionalHashing(again=2.0)
    with pytest.raises(UnknownNameError, match="did you mean 'nsga2'"):
        FunctionalHashing("nsga3").start(Problem(SPACE))
    for wrong, said in (
        ("functional_hashing", "another technique of kind 'search'"),
        ("depth", "searcher is a searcher"),
    ):
        with pytest.raises(WrongShapeError, match=said):
            FunctionalHashing(wrong).start(Problem(SPACE))
    FunctionalHashing(RegularizedEvolution(population=3, sample=2)).start(Problem(SPACE))
