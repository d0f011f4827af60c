"""Searchers compute with one thread, and leave everybody else's number of threads as it was."""

from __future__ import annotations

from random import Random

import pytest
from threadpoolctl import threadpool_info, threadpool_limits

from pliant.space import Choice, Config, Problem, Space
from pliant.techniques.search._batches import Batches


def threads() -> set[int]:
    return {library["num_threads"] for library in threadpool_info() if library["user_api"] == "blas"}


class _Planner(Batches):
    seen: set[int]

    def plan(self, rng: Random, number: int) -> list[Config]:
        self.seen = threads()
        if number:
            raise RuntimeError
        return [self.space.smallest()]


def test_plans_are_made_with_one_thread_each_and_the_number_is_restored() -> None:
    planner = _Planner(Problem(Space([Choice("width", (1, 2))]), 1, 0))
    with threadpool_limits(2, user_api="blas"):
        before = threads()
        planner.ask()
        assert planner.seen == {1}
        assert threads() == before
        with pytest.raises(RuntimeError):
            planner.tell(planner.space.smallest(), [1.0])
            planner.ask()
        assert threads() == before
