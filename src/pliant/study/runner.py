"""Searching a family."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from ..measure import Objective
from ..space import Constraint, Problem
from ..technique import Searcher
from .dialogue import Dialogue
from .evaluation import Evaluation, Searchable
from .given import space_of
from .importing import take_in
from .loop import Limits, Loop
from .plan import Plan
from .sharing import Alone, Shared, Sharing
from .store import Store
from .study import Study
from .trial import Trial
from .workers import Workers
from .workers import workers as workers_for


def search(
    family: Searchable,
    objectives: Sequence[Objective],
    budget: int,
    *,
    searcher: Searcher | None = None,
    storage: str | Path | None = None,
    constraints: Sequence[str | Constraint] = (),
    extras: Sequence[Objective] = (),
    seed: int = 0,
    max_failures: int = 5,
    on_trial: Callable[[Trial], None] | None = None,
    workers: int | Workers = 1,
    remeasure: int = 1,
    results: str | Path | None = None,
) -> Study:
    """Measure up to ``budget`` different configs of ``family``, chosen by ``searcher``, and return the study.

    With one worker the same arguments give the same study, and a search that was killed goes on as if it had not
    been. With several, the order in which they finish decides what the searcher asks for next.

    Args:
        family: its space is searched; ``ready(config)`` gives the member to measure.
        objectives: what to optimise, each in its own direction.
        budget: how many trials the study shall have measured, those stored earlier and failed ones included.
        searcher: the catalogue's default for ``search`` where not given.
        storage: a path (SQLite), the URL of a PostgreSQL database (``postgresql://user@host/database#name``), or
            ``None`` for memory. A study found there is gone on with. Several searches may share one on PostgreSQL.
        constraints: such as ``"macs <= 1e6"``, on objectives, extras, or ``params`` and ``bytes``.
        extras: measured and stored beside the objectives, but not optimised.
        seed: of the searcher, and of torch, numpy and ``random`` in every measurement (restored after it).
        max_failures: failed trials in a row after which the search stops.
        on_trial: called with every trial that this call measures, also when it is measured again.
        workers: 1 for this process, more for as many beside it, or
            :class:`~pliant.study.LocalProcesses` or :class:`~pliant.study.RayTasks`.
        remeasure: after the budget, the configs of the front are measured again until each was so often; their values
            are then means. For objectives with noise.
        results: a CSV or JSON file of what was measured elsewhere, see :func:`~pliant.study.import_results`.

    Raises:
        PliantError: the storage is another study's or cannot be used; or ``max_failures`` trials in a row failed:
            those will be measured again when the search is.
        WrongShapeError, UnknownNameError: the arguments do not fit each other, or no config can keep the constraints.
    """
    limits = Limits(budget, max_failures, remeasure)
    plan = Plan.make(space_of(family), objectives, extras=extras, constraints=constraints, searcher=searcher, seed=seed)
    crews, problem = workers_for(workers), plan.problem(family)
    with Store.open(storage) as store:
        store.claim(plan.record())
        store.note_asked({"budget": limits.budget, "remeasure": limits.remeasure})
        if results is not None:
            take_in(store, results, getattr(family, "canonical", None))
        dialogue, sharing = _joined(family, plan, problem, store)
        crew = crews.open(Evaluation(family, plan.measured, plan.seed))
        try:
            note = Loop(plan, store, crew, dialogue, sharing, limits, on_trial).run()
        finally:
            crew.close()
        return Study.of(store, note or _infeasible(list(dialogue.known.values()), plan.constraints))


def _joined(family: Searchable, plan: Plan, problem: Problem, store: Store) -> tuple[Dialogue, Sharing]:
    """Return the searcher's side with all that is stored, and the terms with other searches."""
    seen: set[int] = set()
    records = store.records(seen)
    sharing: Sharing = Alone()
    if store.claims is not None:
        sharing = Shared(store, store.claims, records, seen)
        if sharing.company:  # the same seed would ask for the same configs
            problem = replace(problem, seed=store.claims.seed(plan.seed))
    dialogue = Dialogue(plan, problem, getattr(family, "canonical", None))
    dialogue.restore(records)
    return dialogue, sharing


def _infeasible(trials: Sequence[Trial], constraints: Sequence[Constraint]) -> str:
    """Say so where no trial keeps the constraints, and how far the nearest is off; or where all failed, and why."""
    complete = [trial for trial in trials if trial.state == "complete"]
    if trials and not complete:
        return f"all {len(trials)} trials failed, the last with {trials[-1].error}"
    if not complete or any(trial.feasible for trial in complete):
        return ""
    near = min(complete, key=lambda trial: (trial.violation, trial.number))
    values = {name: measurement.value for name, measurement in near.measurements.items()}
    broken = [f"{each.name} is {values[each.name]:g} where '{each}'" for each in constraints if not each.holds(values)]
    return (
        f"none of {len(complete)} measured configs keeps the constraints; the nearest is trial {near.number}: "
        f"{', '.join(broken)}. Loosen them, or raise the budget"
    )
