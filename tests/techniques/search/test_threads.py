"""Searchers compute with one thread, and leave everybody else's number of threads as it was."""

from __future__ import annotations

import threading
from random import Random

import pytest
from threadpoolctl import threadpool_info, threadpool_limits

from pliant.space import Choice, Config, Problem, Space
from pliant.techniques.search._batches import Batches
from pliant.techniques.search._threads import one_thread


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


def test_threads_that_plan_side_by_side_leave_the_number_as_it_was() -> None:
    with threadpool_limits(2, user_api="blas"):
        before, inside, go_on = threads(), threading.Event(), threading.Event()

        def first() -> None:
            with one_thread():
                inside.set()
                assert go_on.wait(60)

        def second() -> None:
            with one_thread():
                pass

        both = [threading.Thread(target=first), threading.Thread(target=second)]
        both[0].start()
        assert inside.wait(60)
        both[1].start()
        both[1].join(0.2)
        assert both[1].is_alive(), "else it would take one for the number to put back"
        go_on.set()
        for thread in both:
            thread.join(60)
        assert threads() == before
