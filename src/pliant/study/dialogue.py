"""What the searcher asks and is told.

Going on with a stored study holds the same dialogue again, with the stored measurements served in place of new ones:
the searcher stands where it stood when the process died. What it did not ask for while it was alone with the study
(several workers, other searches, results from elsewhere) it is told in the order in which it came.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Collection, Iterable, Mapping
from functools import cached_property
from typing import Any

import numpy as np

from ..checks import PliantError
from ..space import Config, Problem
from ..technique import Proposer
from .plan import Plan
from .records import Record, trial_of
from .trial import Trial

TRIES = 200
"""Known configs in a row after which a searcher is taken to have run out of new ones."""

LOOK = 5
"""Known configs in a row after which it is looked whether there is any other."""

_QUICK, _SLOW = 20_000, 1000  # configs of the largest space that is looked through

_log = logging.getLogger("pliant.study")


class Exhausted(Exception):  # noqa: N818 - an end, and no error
    """The searcher has no new config; the text says how that shows."""


class Dialogue:
    """The searcher's side of a search.

    Args:
        plan: what is searched for.
        problem: what the searcher is started on; it is started when it is first asked.
        canonical: the config that is measured for all with the same network.

    Attributes:
        known: the trials so far, by the config that was measured.
    """

    def __init__(self, plan: Plan, problem: Problem, canonical: Callable[[Config], Config] | None) -> None:
        self.known: dict[Config, Trial] = {}
        self._plan = plan
        self._record: Mapping[str, Any] = plan.record()
        self._problem = problem
        self._same = canonical
        self._canonical: dict[Config, Config] = {}
        self._proposer: Proposer | None = None
        self._records: dict[Config, list[Record]] = {}
        self._told: dict[Config, list[Record]] = {}
        self._names: dict[Config, dict[Config, None]] = {}  # under which each was asked for
        self._line: list[Record] = []  # stored, and not told yet
        self._in_a_row = 0
        self.finished = 0

    def canonical(self, config: Config) -> Config:
        """Return the config that is measured for all with the same network, where the family can say which."""
        if self._same is None:
            return config
        if config not in self._canonical:  # it costs a millisecond, and is asked for all the time
            self._canonical[config] = self._same(config)
        return self._canonical[config]

    def restore(self, records: Iterable[Record]) -> None:
        """Take in what is stored already, in its order."""
        for record in records:
            self.add(record)
            self._line.append(record)

    def add(self, record: Record) -> Trial:
        """Take in a finished measurement; return what is now known of its config."""
        self.finished += 1
        config = self.canonical(record.config)
        earlier = self._records.get(config, []) if record.repeat else []
        self._records[config] = [*earlier, record]
        before = self.known.get(config)
        number = len(self.known) if before is None else before.number
        trial = trial_of(number, self._records[config], self._record)
        self.known[config] = trial
        return trial

    def attempts(self, config: Config) -> int:
        """Return how often a config was measured, failures included."""
        return len(self._records.get(config, ()))

    @property
    def measured(self) -> int:
        """How many configs this study measured: those from elsewhere do not count."""
        return sum(not trial.imported for trial in self.known.values())

    # -- asking --------------------------------------------------------------------------------------------------

    def ask(self, flying: Collection[Config]) -> Config | None:
        """Return a config to measure, or ``None`` where the searcher has to wait for those that are ``flying``.

        Raises:
            Exhausted: it has no new one.
        """
        name = type(self._plan.searcher).__name__
        while True:
            self._tell_due()
            asked = self._started().ask()
            if not asked:
                if self._line:  # it would have had more to say of what is stored
                    self._catch_up()
                    continue
                if flying:
                    return None
                raise Exhausted(f"the space is exhausted as far as {name} can see: it has nothing left to propose")
            config = self._heard(asked[0])
            if config not in self.known and config not in flying:
                self._catch_up()
                self._in_a_row = 0
                return config
            if config in self._told or config in flying:
                self._in_a_row += 1
            else:
                self._in_a_row = 0
                self._tell_early(config)
            if self._in_a_row >= LOOK and len(self.known) + _others(flying, self.known) >= self._networks:
                if flying:
                    return None
                raise Exhausted(
                    f"the space is exhausted: all its {len(self.known)} different networks were measured "
                    f"({self._plan.space.size} configs)"
                )
            if self._in_a_row >= TRIES:
                if flying:
                    return None
                raise Exhausted(
                    f"the space is exhausted as far as {name} can see: it proposed {TRIES} known configs in a row "
                    f"({len(self.known)} of {self._plan.space.size} were measured)"
                )

    @cached_property
    def _networks(self) -> float:
        """How many different networks the space has; infinite where it is too large to be looked through."""
        quick = self._problem.active is not None  # whole arrays at once; else it costs a millisecond for every config
        if self._problem.canonical is None or self._plan.space.size > (_QUICK if quick else _SLOW):
            return math.inf
        rows = self._plan.space.indices(list(self._plan.space.enumerate()))
        return len(np.unique(self._problem.canonical(rows), axis=0))

    def _started(self) -> Proposer:
        if self._proposer is None:
            self._proposer = self._plan.searcher.start(self._problem)
        return self._proposer

    def _heard(self, asked: Config) -> Config:
        name = self._plan.space.check(asked)
        config = self._plan.space.check(self.canonical(name))
        self._names.setdefault(config, {})[name] = None
        if config in self._told:
            self._say(config, [name])
        return config

    # -- telling -------------------------------------------------------------------------------------------------

    def tell(self, record: Record) -> None:
        """Tell the searcher a measurement, by the names under which it asked for it."""
        config = self.canonical(record.config)
        earlier = self._told.get(config, []) if record.repeat else []
        self._told[config] = [*earlier, record]
        self._in_a_row = 0
        if self._proposer is not None:
            self._say(config, list(self._names.get(config, {})) or [config])

    def _say(self, config: Config, names: Iterable[Config]) -> None:
        trial = trial_of(0, self._told[config], self._record)
        for name in names:
            self._started().tell(name, self._plan.minimised(trial.values), trial.violation)

    def _tell_due(self) -> None:
        """Tell what came by itself, once all that came before it is told."""
        while self._line and (self._line[0].free or self._line[0].repeat):
            self._started()
            self.tell(self._line.pop(0))

    def _tell_early(self, config: Config) -> None:
        for place, record in enumerate(self._line):
            if self.canonical(record.config) == config:
                self.tell(self._line.pop(place))
                return
        raise PliantError(f"a stored trial of {config} got lost on its way to the searcher: please report this")

    def _catch_up(self) -> None:
        """Tell what is stored and was not asked for: there is none unless the searcher's code has changed since."""
        if not self._line:
            return
        if not any(record.free for records in self._records.values() for record in records):
            _log.warning(
                "the searcher proposes other configs than when this study was begun (is it another version?): it is "
                "told the %d remaining stored trials and goes on from there",
                len(self._line),
            )
        self._started()
        while self._line:
            self.tell(self._line.pop(0))


def _others(flying: Collection[Config], known: Collection[Config]) -> int:
    return sum(config not in known for config in flying)
