"""What a search tells of itself while it runs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ..checks import PliantError
from ..measure import Objective
from ..study import Study, Trial
from ..study.study import front_of, share
from .events import Events


class Watch:
    """Tells of a search's progress: how many are measured, the size of the front and its hypervolume so far.

    The hypervolume is the share that the front dominates of the box between the best and the worst value of each
    objective so far; with one objective, its best value is told. What ``storage`` holds already counts.
    """

    def __init__(self, events: Events, budget: int, objectives: Sequence[Objective], storage: str | Path) -> None:
        self._events, self._budget = events, budget
        self._directions = {each.name: each.direction for each in objectives}
        self._trials = {trial.config: trial for trial in _earlier(storage)}
        events.phase("search", budget)

    def __call__(self, trial: Trial) -> None:
        """Take in a trial."""
        self._trials[trial.config] = trial
        trials = list(self._trials.values())
        front = front_of(trials, self._directions)
        figures: dict[str, float] = {}
        if len(self._directions) > 1:
            figures = {"hypervolume": share(trials, self._directions), "front": len(front)}
        elif front:
            figures = dict(front[0].values)
        done = sum(not each.imported for each in trials)
        self._events.step(min(done, self._budget), **figures)


def _earlier(where: str | Path) -> Sequence[Trial]:
    try:
        return Study.load(where).trials
    except PliantError:  # there is none yet; if it is worse, the search says so
        return ()
