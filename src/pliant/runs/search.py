"""Searching a trained run anew: with another searcher, other objectives and constraints, more workers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ..checks import unknown
from ..family.family import Family
from ..measure import Bytes, Latency, Metric, Objective, Params, PeakMemory
from ..measure.timing import torch_threads
from ..space import Constraint, Space
from ..study import RayTasks, Study, Workers
from ..study import search as search_family
from ..study.store import Store
from ..tasks import Task
from .build import calibrate, on_measures, timing_args
from .events import Events, Silence
from .folder import RunFolder
from .members import macs_of_one
from .open import SEARCH, family_of, told_before
from .spec import searcher as read_searcher
from .watch import Watch

BUDGET = 50


def search(
    run: str | Path,
    *,
    budget: int | None = None,
    searcher: str | None = None,
    objectives: Sequence[str] = (),
    constraints: Sequence[str] | None = None,
    storage: str | Path | None = None,
    resume: bool = False,
    seed: int | None = None,
    workers: int = 1,
    ray: str | None = None,
    remeasure: int | None = None,
    results: str | Path | None = None,
    threads: int | None = None,
    events: Events | None = None,
) -> Study:
    """Search the family that a run has trained; the same call goes on with what is stored.

    Args:
        run: the run's folder, trained.
        budget: members that the study shall have measured; 50 if None.
        searcher: a technique with its fields, ``name(field=value, …)``; the catalogue's default if None.
        objectives: of the task's error (by its name), ``macs`` (these two if empty), ``params``, ``bytes``, ``latency``
            and ``memory``.
        constraints: on choices or on measured values.
        storage: a file or the URL of a PostgreSQL database; ``search.db`` in the run's folder if None.
        resume: a study must be there; what is not given (workers and results excepted) is as it was.
        seed: of the searcher and of the measurements; the run's own if None.
        workers: processes that measure, or with ``ray`` tasks.
        ray: address of a Ray cluster that measures, ``auto`` or ``local``.
        remeasure: how often each member of the front is measured in the end; once if None.
        results: a CSV or JSON file of results from elsewhere.
        threads: of every timing; 1 if None.
        events: is told of the progress.

    Raises:
        PliantError: in all its kinds; nothing that was measured is lost.
    """
    where = storage or Path(run) / SEARCH
    stored = _stored(where) if resume else {}
    budget, remeasure = _or(budget, stored, "budget", BUDGET), _or(remeasure, stored, "remeasure", 1)
    threads = _or(threads, stored.get("settings", {}).get("latency", {}), "threads", 1)
    asked = _Asked.of(Path(run), stored, objectives, constraints, threads)
    chosen = searcher or stored.get("searcher")
    with torch_threads(asked.threads):
        return search_family(
            asked.family,
            asked.objectives,
            budget,
            searcher=read_searcher(chosen) if chosen else None,
            storage=where,
            **asked.options(),
            seed=_or(seed, stored, "seed", asked.seed),
            on_trial=Watch(events or Silence(), budget, asked.objectives, where),
            workers=_workers(workers, ray),
            remeasure=remeasure,
            results=results,
        )


@dataclass(frozen=True)
class _Asked:
    """What a search of a run is asked for: on which family, and what is measured of it in how many threads."""

    family: Family
    objectives: list[Objective]
    extras: list[Objective]
    constraints: list[str]
    seed: int
    threads: int

    def options(self) -> dict[str, Any]:
        """Return what is measured beside the objectives."""
        return {"constraints": self.constraints, "extras": self.extras}

    @classmethod
    def of(
        cls,
        run: Path,
        stored: Mapping[str, Any],
        objectives: Sequence[str],
        constraints: Sequence[str] | None,
        threads: int,
    ) -> _Asked:
        folder = RunFolder.open(run)
        family, task, seed = family_of(run)
        texts = constraints if constraints is not None else _rules(stored, family)
        measured = on_measures(texts, family)
        bounds = [text for text in texts if text not in measured]
        family = narrowed(family, task, bounds, seed) if bounds else family
        known = Known(family, task, seed, threads)
        names = list(objectives) or [name for name, _, _ in stored.get("objectives", ())] or [known.error, "macs"]
        bounded = dict.fromkeys(Constraint.parse(text).name for text in measured)
        wanted = [known.objective(name) for name in names]
        extras = [known.objective(name) for name in bounded if name not in names]
        return cls(family, wanted, extras, measured, seed, int(folder.record.get("training_threads", 1)))


def _or(given: int | None, stored: Mapping[str, Any], name: str, default: int) -> int:
    return given if given is not None else int(stored.get(name, default))


def _workers(count: int, ray: str | None) -> int | Workers:
    if ray is None:
        return count
    return RayTasks(None if ray == "local" else ray, count if count > 1 else None)


def _stored(where: str | Path) -> dict[str, Any]:
    """Return what the study in ``where`` was made for, and was asked for last."""
    with Store.open(where, create=False) as store:
        return {**store.plan(), **store.asked()}


def _rules(stored: Mapping[str, Any], family: Family) -> list[str]:
    """Return the constraints of a stored study that are not the family's own."""
    if not stored:
        return []
    own = {str(constraint) for constraint in family.space.constraints}
    bounds = [str(constraint) for constraint in Space.from_json(stored["space"]).constraints]
    return [*(text for text in bounds if text not in own), *stored["constraints"]]


def narrowed(family: Family, task: Task, constraints: Sequence[str], seed: int) -> Family:
    """Return ``family`` with more constraints on its choices; it shares the weights."""
    capture = family.analysis.capture
    both = [*map(str, family.space.constraints), *constraints]
    parts = (dict(capture.kwargs), both, family.analysis, capture.scope.only)
    with told_before():
        made = Family(family.model, capture.args, family.techniques, *parts)
    made.prepared = family.prepared
    calibrate(made, task, seed)
    return made


class Known:
    """The objectives that a run's members can be measured by, by their names."""

    def __init__(self, family: Family, task: Task, seed: int, threads: int) -> None:
        self._family, self._task, self.seed, self._threads = family, task, seed, threads
        self.error = next(iter(task.evaluate(family.ready(family.space.largest()), "validation")))

    def objective(self, name: str) -> Objective:
        """Return the objective ``name``.

        Raises:
            UnknownNameError: there is no such; the nearest is offered.
        """
        if name == self.error:
            return self._metric()
        if name == "macs":
            return macs_of_one(self._family)
        if name == "latency":
            args, kwargs = timing_args(self._task, self.seed)
            return Latency(args, threads=self._threads, example_kwargs=kwargs)
        if name == "memory":
            return PeakMemory(*timing_args(self._task, self.seed))
        if name in ("params", "bytes"):
            return Params() if name == "params" else Bytes()
        raise unknown("objective", name, [self.error, "macs", "params", "bytes", "latency", "memory"])

    def _metric(self) -> Metric:
        task, name = self._task, self.error

        def measure(member: torch.nn.Module) -> float:
            return task.evaluate(member, "validation")[name]

        return Metric(name, measure, unit=str(task.settings.get("unit", "")))
