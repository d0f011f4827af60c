"""Two workers against one: how much sooner, and is what they find as good?

``python -m benchmarks workers [--trials 100] [--seconds 1] [--seeds 20] [--searcher NAME]``. The speed is that of whole
calls of ``pliant.search`` into a file, with measurements that only wait; two worker processes have to start first,
which takes some seconds, so the speed once they are up is shown as well. The regret is that of the front's hypervolume
after 50 trials on a space of 15625 configs, all of which are known, for as many seeds: once with one worker, and once
with two of which a random one finishes first.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from pliant.space.front import hypervolume
from pliant.study import Trial, search
from tests.study.crews import Shuffled
from tests.study.toy import Member, Toy, cost, error, objectives

from ._figures import Figure, median

BY_DEFAULT = False
BUDGET = 50


def timed(workers: int, trials: int, seconds: float, searcher: Any) -> tuple[float, float]:
    """Return the seconds of a search, and of a trial once all workers are up."""
    ends: list[float] = []

    def waiting(member: nn.Module) -> float:
        time.sleep(seconds)
        return error(member)

    def noted(trial: Trial) -> None:
        ends.append(time.monotonic())

    with tempfile.TemporaryDirectory(prefix="pliant-workers-") as folder:
        start = time.monotonic()
        storage = Path(folder) / "s.db"
        search(Toy(), objectives(waiting), trials, workers=workers, storage=storage, on_trial=noted, searcher=searcher)
        whole = time.monotonic() - start
    return whole, (ends[-1] - ends[workers - 1]) / (trials - workers)


def regrets(workers: int, seeds: int, searcher: Any) -> np.ndarray:
    """Return for each seed how much of the true front's hypervolume is missing, (seeds,)."""
    space = Toy().space
    everything = np.array([[error(member), cost(member)] for member in map(Member, space.enumerate())])
    low, high = everything.min(axis=0), everything.max(axis=0)
    true = hypervolume((everything - low) / (high - low), np.ones(2))
    found = []
    for seed in range(seeds):
        study = search(
            Toy(),
            objectives(),
            BUDGET,
            seed=seed,
            workers=Shuffled(workers, seed) if workers > 1 else 1,
            searcher=searcher,
        )
        points = np.array([[trial.values["error"], trial.values["cost"]] for trial in study.trials])
        found.append(true - hypervolume((points - low) / (high - low), np.ones(2)))
    return np.array(found)


def run(arguments: Sequence[str]) -> list[Figure]:
    """Measure both."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks workers", description=__doc__)
    parser.add_argument("--trials", type=int, default=100)
    parser.add_argument("--seconds", type=float, default=1.0)
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--searcher")
    asked = parser.parse_args(arguments)
    searcher = None
    if asked.searcher:
        from pliant.runs.spec import searcher as read

        searcher = read(asked.searcher)
    one, each_one = timed(1, asked.trials, asked.seconds, searcher)
    two, each_two = timed(2, asked.trials, asked.seconds, searcher)
    facts = {"trials": asked.trials, "seconds_of_a_trial": asked.seconds, "seconds": [round(one, 1), round(two, 1)]}
    alone, both = regrets(1, asked.seeds, searcher), regrets(2, asked.seeds, searcher)
    # the standard error of the difference of the means, in which the difference is told
    noise = float(np.hypot(alone.std(ddof=1), both.std(ddof=1)) / np.sqrt(asked.seeds))
    more = float(both.mean() - alone.mean()) / noise if noise else 0.0
    return [
        Figure("time of two workers over that of one", two / one, "x", limit=1 / 1.8, facts=facts),
        Figure("the same, once both are up", each_two / each_one, "x", limit=1 / 1.8, facts=facts),
        Figure(f"regret at {BUDGET}, one worker", *_told(alone), facts={"seeds": asked.seeds}),
        Figure(f"regret at {BUDGET}, two workers", *_told(both), facts={"seeds": asked.seeds}),
        Figure("mean regret of two less that of one, in standard errors", more, "", limit=2.0),
    ]


def _told(values: np.ndarray) -> tuple[float, str, None, float]:
    middle, spread = median(values)
    return middle, "", None, spread
