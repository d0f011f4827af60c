"""The loop of a search: ask, measure, remember, tell.

One proposer is started from the space and the seed. Going on with a stored study is the same loop, with the stored
measurements served in place of new ones: the proposer asks and is told what it asked and was told before, and stands
where it stood when the process died.
"""

from __future__ import annotations

import logging
import math
import random
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch

from ..checks import MissingExtraError, PliantError, WrongShapeError
from ..measure import Measurement, Objective
from ..space import Config, Problem
from ..technique import Proposer, Searcher
from .plan import Plan, Searchable
from .store import Store
from .study import Study
from .trial import Trial

_TRIES = 200
"""Known configs in a row after which a searcher is taken to have run out of new ones."""

_log = logging.getLogger("pliant.study")


def search(
    family: Searchable,
    objectives: Sequence[Objective],
    budget: int,
    *,
    searcher: Searcher | None = None,
    storage: str | Path | None = None,
    constraints: Sequence[str] = (),
    extras: Sequence[Objective] = (),
    seed: int = 0,
    max_failures: int = 5,
    on_trial: Callable[[Trial], None] | None = None,
) -> Study:
    """Measure up to ``budget`` different configs of ``family``, chosen by ``searcher``, and return the study.

    Args:
        family: its space is searched; ``ready(config)`` gives the member to measure.
        objectives: what to optimise, each in its own direction.
        budget: how many trials the study shall have, those stored earlier and failed ones included.
        searcher: the catalogue's default for ``search`` where not given.
        storage: a path (SQLite), an Optuna URL, or ``None`` for memory. A study found there is gone on with.
        constraints: such as ``"macs <= 1e6"``, on objectives, extras, or ``params`` and ``bytes``.
        extras: measured and stored beside the objectives, but not optimised.
        seed: of the searcher, and of torch, numpy and ``random`` in every measurement (restored after it).
        max_failures: failed trials in a row after which the search stops.
        on_trial: called with every trial that this call measures.

    Raises:
        PliantError: the storage is another study's or cannot be used; or ``max_failures`` trials in a row failed:
            those will be measured again when the search is.
        WrongShapeError, UnknownNameError: the arguments do not fit each other.
    """
    if budget < 1 or max_failures < 1:
        raise WrongShapeError(f"budget and max_failures are at least 1, got {budget} and {max_failures}")
    plan = Plan.make(family.space, objectives, extras=extras, constraints=constraints, searcher=searcher, seed=seed)
    with Store.open(storage) as store:
        store.claim(plan.record())
        run = _Run(family, plan, store, max_failures, on_trial)
        note = run.to(budget)
        return Study.of(store, note)


class _Run:
    """One call of :func:`search`."""

    def __init__(
        self,
        family: Searchable,
        plan: Plan,
        store: Store,
        max_failures: int,
        on_trial: Callable[[Trial], None] | None,
    ) -> None:
        self._family = family
        self._plan = plan
        self._store = store
        self._max_failures = max_failures
        self._on_trial = on_trial
        self._failed_rows: list[int] = []  # in a row, of this call only
        self._stored = {trial.config: trial for trial in store.trials()}
        self._told: dict[Config, Trial] = {}

    def to(self, budget: int) -> str:
        """Go on until the study has ``budget`` trials; return why it ended earlier, or nothing."""
        space = self._plan.space
        proposer = self._plan.searcher.start(Problem(space, len(self._plan.objectives), self._plan.seed))
        known_in_a_row = 0
        while len(self._stored) < budget:
            if len(self._stored) >= space.size:
                return f"the space is exhausted: all its {space.size} configs were measured"
            asked = space.check(proposer.ask()[0])
            config = self._canonical(asked)
            known_in_a_row = known_in_a_row + 1 if config in self._told else 0
            if known_in_a_row >= _TRIES:
                return (
                    f"the space is exhausted as far as {type(self._plan.searcher).__name__} can see: it proposed "
                    f"{_TRIES} known configs in a row ({len(self._stored)} of {space.size} were measured)"
                )
            if config not in self._stored:
                self._catch_up(proposer)
                self._stored[config] = self._measure(config)
            self._tell(proposer, self._stored[config], asked)
        return ""

    def _canonical(self, config: Config) -> Config:
        """Return the config that is measured for all with the same network, where the family can say which."""
        same = getattr(self._family, "canonical", None)
        return config if same is None else same(config)

    def _tell(self, proposer: Proposer, trial: Trial, asked: Config | None = None) -> None:
        """Tell a trial, by the name that the searcher asked for it."""
        self._told[trial.config] = trial
        proposer.tell(asked or trial.config, self._plan.minimised(trial.values), trial.violation)

    def _catch_up(self, proposer: Proposer) -> None:
        """Tell what is stored and was not asked for: there is none unless the searcher's code has changed since."""
        left = [trial for config, trial in self._stored.items() if config not in self._told]
        if left:
            _log.warning(
                "the searcher proposes other configs than when this study was begun (is it another version?): it is "
                "told the %d remaining stored trials and goes on from there",
                len(left),
            )
        for trial in left:
            self._tell(proposer, trial)

    def _measure(self, config: Config) -> Trial:
        number, row = len(self._stored), self._store.begin(config)
        try:
            with _seeded(self._plan.seed):
                measurements = self._measurements(config)
        except MissingExtraError as error:  # the machine's fault, not the config's
            self._store.again(row, str(error))
            raise
        except Exception as error:  # noqa: BLE001 - whatever a user's evaluation raises
            return self._failed(Trial(number, config, {}, {}, "failed", _described(error), math.inf), row)
        except BaseException:  # stopped by hand
            self._store.again(row, "interrupted before it was measured")
            raise
        for name, measurement in measurements.items():
            if not math.isfinite(measurement.value):
                wrong = f"objective {name!r} is {measurement.value}, expected a finite number"
                return self._failed(Trial(number, config, {}, {}, "failed", wrong, math.inf), row)
        return self._complete(number, config, measurements, row)

    def _measurements(self, config: Config) -> dict[str, Measurement]:
        member = self._family.ready(config)
        return {each.name: each.measure(member) for each in (*self._plan.objectives, *self._plan.extras)}

    def _complete(self, number: int, config: Config, measurements: Mapping[str, Measurement], row: int) -> Trial:
        found = {name: measurement.value for name, measurement in measurements.items()}
        values = {each.name: found[each.name] for each in self._plan.objectives}
        violation = sum(constraint.violation(found) for constraint in self._plan.constraints)
        self._store.finish(row, values, measurements)
        self._failed_rows.clear()
        trial = Trial(number, config, values, measurements, violation=violation)
        if self._on_trial is not None:
            self._on_trial(trial)
        return trial

    def _failed(self, trial: Trial, row: int) -> Trial:
        self._failed_rows.append(row)
        if len(self._failed_rows) < self._max_failures:
            self._store.fail(row, trial.error)
            if self._on_trial is not None:
                self._on_trial(trial)
            return trial
        self._store.forget(self._failed_rows[:-1])
        self._store.again(row, trial.error)
        raise PliantError(
            f"{self._max_failures} trials in a row failed, so the evaluation itself is probably at fault; the last "
            f"with {trial.error}. {len(self._stored) + 1 - self._max_failures} trials are kept; mend it and run the "
            "same again: the failed ones will be measured anew"
        )


def _described(error: Exception) -> str:
    place = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__}: {error} ({Path(place.filename).name}, line {place.lineno})"


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Give every measurement the same random numbers, so that a resumed study does as one never killed."""
    python, legacy = random.getstate(), np.random.get_state()  # noqa: NPY002
    devices = [torch.cuda.current_device()] if torch.cuda.is_initialized() else []
    with torch.random.fork_rng(devices):
        try:
            random.seed(seed)
            np.random.seed(seed % 2**32)  # noqa: NPY002
            torch.manual_seed(seed)
            yield
        finally:
            random.setstate(python)
            np.random.set_state(legacy)  # noqa: NPY002
