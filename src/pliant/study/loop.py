"""The loop of a search: ask, give out, collect, remember, tell."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from ..checks import MissingExtraError, PliantError, WrongShapeError, whole
from ..space import Config
from .dialogue import Dialogue, Exhausted
from .evaluation import Outcome
from .plan import Plan
from .records import Record
from .sharing import POLL_SECONDS, Sharing, key_of
from .store import Store
from .study import front_of
from .trial import Trial
from .workers import Crew, Report

DEATHS = 3
"""Workers that may die over one config before it counts as failed."""

_log = logging.getLogger("pliant.study")


@dataclass(frozen=True)
class Limits:
    """When to stop.

    Attributes:
        budget: configs that the study shall have measured.
        max_failures: failed trials in a row after which the search stops.
        remeasure: how often each config of the front is measured.

    Raises:
        WrongShapeError: one is less than 1, or no whole number.
    """

    budget: int
    max_failures: int = 5
    remeasure: int = 1

    def __post_init__(self) -> None:
        for name in ("budget", "max_failures", "remeasure"):
            object.__setattr__(self, name, whole(getattr(self, name), name))
        if min(self.budget, self.max_failures, self.remeasure) < 1:
            raise WrongShapeError(
                f"budget, max_failures and remeasure are at least 1, got {self.budget}, {self.max_failures} and "
                f"{self.remeasure}"
            )


@dataclass
class _Job:
    """A config that is being measured."""

    config: Config
    repeat: int
    row: int
    deaths: int = 0


class Loop:
    """One call of :func:`~pliant.study.search`.

    Args:
        plan: what is searched for.
        store: where it is kept.
        crew: who measures.
        dialogue: with the searcher.
        sharing: with other searches.
        limits: when to stop.
        on_trial: told every trial that this search measures.
    """

    def __init__(
        self,
        plan: Plan,
        store: Store,
        crew: Crew,
        dialogue: Dialogue,
        sharing: Sharing,
        limits: Limits,
        on_trial: Callable[[Trial], None] | None = None,
    ) -> None:
        self._plan, self._store, self._crew = plan, store, crew
        self._dialogue, self._sharing, self._limits = dialogue, sharing, limits
        self._on_trial = on_trial
        self._flight: dict[int, _Job] = {}
        self._tickets = 0
        self._failed: list[_Job] = []  # in a row, of this call only
        self._elsewhere: dict[str, Config] = {}  # asked for, and measured by another search
        self._spare: deque[Config] = deque()  # asked for, and waiting for room in the budget
        self._taken: deque[tuple[Config, int]] = deque()  # from searches that died
        self._full = False

    def run(self) -> str:
        """Search, then measure the front again; return why it ended before its budget, or nothing."""
        try:
            note = self._search()
            self._remeasure()
        except BaseException as error:
            self._abort(str(error) if isinstance(error, MissingExtraError) else "interrupted before it was measured")
            raise
        return note

    # -- the search ----------------------------------------------------------------------------------------------

    def _search(self) -> str:
        while True:
            self._look()
            try:
                self._fill()
            except Exhausted as end:
                if not self._flight and not self._elsewhere:
                    return str(end)
            if self._flight:
                self._collect()
            elif self._dialogue.measured >= self._limits.budget:
                return ""
            else:  # the rest is with other searches
                time.sleep(POLL_SECONDS)

    def _fill(self) -> None:
        """Give out configs until every worker has one, the budget is out, or the searcher waits."""
        self._give_taken()
        while len(self._flight) < self._crew.count and not self._full:
            first = sum(not job.repeat for job in self._flight.values())
            if self._dialogue.measured + first >= self._limits.budget:
                return
            config = self._spare.popleft() if self._spare else self._asked()
            if config is None:
                return
            if config not in self._dialogue.known:
                self._give(config)

    def _give_taken(self) -> None:
        while self._taken and len(self._flight) < self._crew.count:
            self._give(*self._taken.popleft(), owned=True)

    def _asked(self) -> Config | None:
        flying = {job.config for job in self._flight.values()} | set(self._elsewhere.values())
        size = self._plan.space.size
        if len(self._dialogue.known) + len(flying) >= size:
            if flying:
                return None
            raise Exhausted(f"the space is exhausted: all its {size} configs were measured")
        return self._dialogue.ask(flying)

    def _give(self, config: Config, repeat: int = 0, owned: bool = False) -> bool:
        """Have ``config`` measured, if the claim on it can be had."""
        verdict = "ours" if owned else self._sharing.take(config, repeat, self._limits.budget)
        if verdict == "held":
            self._elsewhere[key_of(config, repeat)] = config
        elif verdict == "full":
            self._spare.append(config)
            self._full = True
        if verdict != "ours":
            return False
        free = self._crew.count > 1 or self._sharing.company
        key = key_of(config, repeat) if self._store.claims is not None else ""
        row = self._store.begin(config, repeat=repeat, free=free, key=key)
        self._tickets += 1
        self._flight[self._tickets] = _Job(config, repeat, row)
        self._crew.submit(self._tickets, config, repeat)
        return True

    def _look(self) -> None:
        """Take in what other searches did."""
        news = self._sharing.look()
        if news is None:
            return
        self._full = False
        for record in news.records:
            self._elsewhere.pop(key_of(record.config, record.repeat), None)
            self._dialogue.add(record)
            self._dialogue.tell(record)
        self._taken.extend(news.taken)
        taken = {key_of(*each) for each in news.taken}
        for key in [key for key in self._elsewhere if key not in news.held or key in taken]:
            config = self._elsewhere.pop(key)  # nobody measures it after all
            if key not in taken and config not in self._dialogue.known:
                self._spare.append(config)

    # -- what comes back -----------------------------------------------------------------------------------------

    def _collect(self) -> None:
        for report in self._crew.wait(self._sharing.poll):
            self._receive(report)

    def _receive(self, report: Report) -> None:
        job, outcome = self._flight[report.ticket], report.outcome
        if outcome is None:
            job.deaths += 1
            if job.deaths < DEATHS:
                _log.warning("a worker died over %s (%s): another gets it", job.config, report.death)
                self._crew.submit(report.ticket, job.config, job.repeat)
                return
            outcome = Outcome(error=f"{job.deaths} workers died over it, the last: {report.death}")
        if outcome.fatal:
            raise MissingExtraError(outcome.fatal)
        if outcome.error and len(self._failed) + 1 >= self._limits.max_failures:
            self._give_up(report.ticket, outcome.error)
        after = self._dialogue.finished
        if outcome.error:
            ours = self._store.fail(job.row, outcome.error, after)
        else:
            ours = self._store.finish(job.row, outcome.measurements, after)
        del self._flight[report.ticket]
        if not ours:
            _log.warning("%s took too long to be heard of and was given to another search", job.config)
            self._elsewhere[key_of(job.config, job.repeat)] = job.config
            return
        self._sharing.settle(job.config, job.repeat, job.row)
        self._failed = [*self._failed, job] if outcome.error else []
        self._remember(job, outcome, after)

    def _remember(self, job: _Job, outcome: Outcome, after: int) -> None:
        record = Record((after, 0), job.config, outcome.measurements, outcome.error, job.repeat)
        trial = self._dialogue.add(record)
        if not (job.repeat and outcome.error):
            self._dialogue.tell(record)
        if self._on_trial is not None:
            self._on_trial(trial)

    def _give_up(self, ticket: int, error: str) -> None:
        """Stop: so many failures in a row are not the configs' fault. Those will be measured again."""
        job, earlier = self._flight.pop(ticket), self._failed
        self._store.forget([each.row for each in earlier])
        self._store.again(job.row, error)
        for each in [*earlier, job]:
            self._sharing.drop(each.config, each.repeat)
        kept = len(self._dialogue.known) - sum(not each.repeat for each in earlier)
        raise PliantError(
            f"{self._limits.max_failures} trials in a row failed, so the evaluation itself is probably at fault; the "
            f"last with {error}. {kept} trials are kept; mend it and run the same again: the failed ones will be "
            "measured anew"
        )

    def _abort(self, reason: str) -> None:
        self._store.hurry()
        for job in self._flight.values():
            with suppress(Exception):  # what stopped us may be the storage itself; the next search tidies up
                self._store.again(job.row, reason)
                self._sharing.drop(job.config, job.repeat)

    # -- noise ---------------------------------------------------------------------------------------------------

    def _remeasure(self) -> None:
        """Measure the front again until each of its configs was measured often enough; it may change by that."""
        while True:
            self._look()
            self._give_taken()
            wanting = self._wanting()
            given = [self._give(config, repeat) for config, repeat in wanting[: self._crew.count - len(self._flight)]]
            if self._flight:
                self._collect()
            elif not wanting and not self._taken:
                return
            elif not any(given):
                time.sleep(POLL_SECONDS)  # others are at it

    def _wanting(self) -> list[tuple[Config, int]]:
        """Return the configs of the front to measure again, with the number of the repeat, the most uncertain first."""
        if self._limits.remeasure == 1:
            return []
        directions = {each.name: each.direction for each in self._plan.objectives}
        found = []
        for trial in front_of(list(self._dialogue.known.values()), directions):
            config = self._dialogue.canonical(trial.config)
            out = [job.repeat for job in self._flight.values() if job.config == config]
            times = self._dialogue.attempts(config) + len(out)
            if times < self._limits.remeasure:
                found.append((times, trial.number, config))
        return [(config, times) for times, _, config in sorted(found, key=lambda each: each[:2])]
