"""Random search: even, and without repeats."""

from __future__ import annotations

from collections import Counter

import numpy as np

from pliant.space import Choice, Problem, Space
from pliant.techniques.search.random_search import RandomSearch


def space(*counts: int) -> Space:
    return Space([Choice(f"c{index}", tuple(range(count))) for index, count in enumerate(counts)])


def test_every_config_once_and_then_still_an_answer() -> None:
    small = space(3, 4, 5)
    proposer = RandomSearch().start(Problem(small, 1, 0))
    asked = proposer.ask(60)
    assert set(asked) == set(small.enumerate())
    assert proposer.ask() == []  # all that is left is being measured
    for config in asked:
        proposer.tell(config, [0.0])
    assert small.feasible(proposer.ask()[0])


def test_same_seed_same_configs() -> None:
    big = space(*[7] * 20)
    first, second = (RandomSearch().start(Problem(big, 1, 4)) for _ in range(2))
    assert first.ask(50) == [config for _ in range(50) for config in second.ask()]


def test_does_not_propose_what_it_was_told() -> None:
    small = space(2, 2)
    proposer = RandomSearch().start(Problem(small, 1, 0))
    for config in list(small.enumerate())[:3]:
        proposer.tell(config, [0.0], 0.0)
    assert proposer.ask() == [list(small.enumerate())[3]]


def test_draws_evenly() -> None:
    counts: Counter[object] = Counter()
    for seed in range(600):
        counts[RandomSearch().start(Problem(space(2, 3), 1, seed)).ask()[0]] += 1
    chi = sum((counts[config] - 100) ** 2 / 100 for config in space(2, 3).enumerate())
    assert chi < 20.5  # the 0.1 % tail with five degrees of freedom
    assert np.sum(list(counts.values())) == 600
