"""`pliant run`: dry run, training, search, extraction, export, measurement, report."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from ..checks import PliantError
from ..family.family import Family
from ..measure import Metric, machine
from ..measure.timing import torch_threads
from ..report import (
    Check,
    Findings,
    Fixed,
    MemberRow,
    Phase,
    Point,
    ReportData,
    RunFacts,
    save,
    write_report,
)
from ..space.config import Config
from ..study import Study, search
from ..tasks import Task, load_task
from ..training import Progress, default_optimizer, train
from .build import build_family, default_choices, on_measures, timing_args
from .choose import candidates, not_faster
from .dry import dry_run
from .events import Events, Silence
from .folder import RunFolder
from .members import Workshop, macs_of_one
from .open import OWN
from .settings import settings_of
from .spec import recipe as as_recipe
from .spec import split
from .watch import Watch

TOLERANCE = 1.5  # how much more error the headline's member may have, unless the task's SETTINGS say otherwise


@dataclass(frozen=True)
class Result:
    """What a run made: the data of its report, the path of the page, and the study."""

    data: ReportData
    report: Path
    study: Study


@dataclass(frozen=True)
class _Plan:
    task: Task
    settings: Mapping[str, Any]
    choices: tuple[str, ...]
    constraints: tuple[str, ...]
    seed: int
    threads: int
    quick: bool

    @property
    def steps(self) -> int:
        return int(self.settings.get("steps", 1000))

    @property
    def budget(self) -> int:
        return int(self.settings.get("budget", 50))

    @property
    def recipe(self) -> str:
        return str(self.settings["recipe"])

    @property
    def lr(self) -> float:
        return float(self.settings.get("lr", 1e-3))

    def asked(self) -> dict[str, Any]:
        return {
            "task": self.task.place,
            "digest": self.task.digest,
            "steps": self.steps,
            "budget": self.budget,
            "seed": self.seed,
            "choices": list(self.choices),
            "recipe": self.recipe,
            "lr": self.lr,
            "constraints": list(self.constraints),
            "threads": self.threads,
            "quick": self.quick,
        }


def run(
    task: str,
    out: str | Path,
    *,
    quick: bool = False,
    steps: int | None = None,
    budget: int | None = None,
    seed: int = 0,
    choices: Sequence[str] | None = None,
    constraints: Sequence[str] = (),
    recipe: str | None = None,
    lr: float | None = None,
    threads: int = 1,
    events: Events | None = None,
) -> Result:
    """Do everything for a task: train its family, search it, hand over the best members, and write the report.

    Killed at any moment, the same call goes on from the last finished step.

    Args:
        task: a built-in task's name (``"digits"``, ``"digits:convnet"``) or the path of a task file.
        out: the run's folder.
        quick: use the task's settings for a quick look.
        steps: training steps; the task's own if None.
        budget: measured members; the task's own if None.
        seed: determines the initial weights, the batches, the members that learn, and the search.
        choices: techniques that add choices, with fields if wanted: ``width(ratios=(0.5, 1.0))``.
        constraints: such as ``"macs <= 1e6"`` or ``"blocks.depth >= 2"``.
        recipe: how the family is trained, with fields if wanted: ``name(field=value)``; the task's own
            (``SETTINGS["recipe"]``) or the catalogue's default if None.
        lr: the optimizer's learning rate; the task's own if None. Recipes want different ones.
        threads: threads for the measurement of latency.
        events: is told of the progress.

    Raises:
        PliantError: in all its kinds; nothing that was done is lost.
    """
    loaded = load_task(task)
    settings = settings_of(loaded, quick, {"steps": steps, "budget": budget, "recipe": recipe, "lr": lr})
    chosen = default_choices() if choices is None else tuple(part for text in choices for part in split(text))
    if not chosen:
        raise PliantError(
            "no choices are asked for: name some, such as 'width,depth', or none at all for the usual ones"
        )
    plan = _Plan(loaded, settings, chosen, tuple(constraints), seed, threads, quick)
    return _Run(plan, RunFolder.claim(Path(out), plan.asked()), events or Silence()).go()


class _Run:
    """One call of :func:`run`."""

    def __init__(self, plan: _Plan, folder: RunFolder, events: Events) -> None:
        self.plan, self.folder, self.events = plan, folder, events
        self.path = folder.path
        self.checks: list[Check] = []

    def go(self) -> Result:
        family = self._family()
        # A sum is another in another number of threads, so a run that goes on keeps the number that it began with.
        with torch_threads(int(self.folder.record["training_threads"])):
            self._train(family)
            study = self._search(family)
        members = self._members(family, study)
        data = self._data(family, study, members)
        save(data, self.path / "report.json")
        page = write_report(data, self.path / "report.html")
        return Result(data, page, study)

    def _family(self) -> Family:
        self.events.phase("dry run")
        plan = self.plan
        with self.folder.timed("dry run", finish=False):
            family = build_family(plan.task, plan.choices, plan.constraints, plan.seed)
            if self.folder.done("dry run"):
                self.checks = [Check(**check) for check in self.folder.record["checks"]]
                return family
            found = dry_run(family, plan.task, plan.seed, plan.constraints, as_recipe(plan.recipe))
            self.checks = list(found.checks)
            self.folder.record["training_threads"] = found.threads
            self.folder.record["checks"] = [vars(check) for check in found.checks]
        self.folder.record["stages"]["dry run"] = self.folder.record["created"]
        self.folder.write()
        self.events.note(f"{family.space.size:.3g} members; {found.foretell(plan.steps, plan.budget)}")
        return family

    def _train(self, family: Family) -> None:
        plan, settings = self.plan, self.plan.settings
        self.events.phase("training", plan.steps)
        lr, decay = self.plan.lr, float(settings.get("weight_decay", 0.05))
        optimizer = default_optimizer(family.parameters(), lr, decay)

        def told(state: Progress) -> None:
            self.events.step(state.step, loss=state.loss)

        with self.folder.timed("training"):
            train(
                family,
                lambda start: plan.task.batches(plan.seed, start),
                plan.task.loss,
                steps=plan.steps,
                recipe=as_recipe(plan.recipe),
                optimizer=optimizer,
                warmup=float(settings.get("warmup", 0)) / max(1, plan.steps),
                folder=self.path / "checkpoints",
                save_every=max(10, plan.steps // 20),
                seed=plan.seed,
                on_step=told,
            )
            family.save(self.path / "family", {"run": self.plan.asked()})

    def _search(self, family: Family) -> Study:
        plan = self.plan
        objectives = [self._objective(family), macs_of_one(family)]
        storage = self.path / OWN
        with self.folder.timed("search"):
            study = search(
                family,
                objectives,
                plan.budget,
                storage=storage,
                constraints=on_measures(plan.constraints, family),
                seed=plan.seed,
                on_trial=Watch(self.events, plan.budget, objectives, storage),
            )
        if study.note:
            self.events.note(study.note)
        return study

    def _objective(self, family: Family) -> Metric:
        task = self.plan.task
        name = next(iter(task.evaluate(family.ready(family.space.largest()), "validation")))

        def measure(member: torch.nn.Module) -> float:
            return task.evaluate(member, "validation")[name]

        return Metric(name, measure, unit=str(task.settings.get("unit", "")))

    def _members(self, family: Family, study: Study) -> list[MemberRow]:
        """Extract, export and time the reference and the members to show; the reference comes first."""
        plan = self.plan
        error = next(iter(study.directions))
        largest = family.space.largest()  # the full network, or the largest member that the constraints allow
        network = family.ready(largest)
        values = {
            error: plan.task.evaluate(network, "validation")[error],
            "macs": macs_of_one(family).measure(network).value,
        }
        tolerance = float(plan.settings.get("tolerance", TOLERANCE))
        trials = candidates(study.front, error, values, tolerance)
        self.events.phase("members", len(trials) + 1)
        workshop = Workshop(family, plan.task, self.path, timing_args(plan.task, plan.seed), plan.threads)
        with self.folder.timed("members"):
            reference = replace(workshop.make("full", largest, values), role="reference")
            rows = []
            for i, trial in enumerate(trials):
                self.events.step(i + 1)
                rows.append(workshop.make(f"m{i + 1}", trial.config, trial.values))
            self.events.phase("timing")
            times = workshop.time(rows, reference)
        return [_timed(reference, times), *recommend(rows, reference, times, self.events)]

    def _data(self, family: Family, study: Study, members: list[MemberRow]) -> ReportData:
        plan, record = self.plan, self.folder.record
        error = next(iter(study.directions))
        shown = {Config(member.config).key: member.id for member in members}
        points = [
            Point(shown.get(trial.config.key, f"p{trial.number}"), dict(trial.values), "", trial.feasible)
            for trial in study.trials
            if trial.state == "complete"
        ]
        return ReportData(
            task=plan.task.name,
            error=error,
            members=tuple(members),
            tolerance=float(plan.settings.get("tolerance", TOLERANCE)),
            findings=Findings(
                points=tuple(points),
                fixed=tuple(Fixed(f.what, str(f.reason), f.size) for f in family.analysis.fixed),
                checks=tuple(self.checks),
                space_size=family.space.size,
            ),
            facts=RunFacts(
                machine=machine(),
                settings=plan.asked(),
                commands=(self._command(),),
                phases=tuple(Phase(name, seconds) for name, seconds in record.get("seconds", {}).items()),
                created=record["created"],
                notes=("A quick run: its settings are for a first look.",) if plan.quick else (),
            ),
        )

    def _command(self) -> str:
        plan = self.plan
        where = shlex.quote(self.path.resolve().name)
        parts = [f"pliant run {shlex.quote(plan.task.name)} --out {where}", f"--seed {plan.seed}"]
        parts += ["--quick"] if plan.quick else []
        parts += [f"--steps {plan.steps}", f"--budget {plan.budget}", f"--threads {plan.threads}"]
        parts += [f"--constraint {shlex.quote(text)}" for text in plan.constraints]
        parts += [f"--recipe {shlex.quote(plan.recipe)}", f"--lr {plan.lr:g}"]
        return " ".join([*parts, f"--choices {shlex.quote(','.join(plan.choices))}"])


def _timed(row: MemberRow, times: Mapping[str, Mapping[str, Any]]) -> MemberRow:
    return replace(row, measurements={**row.measurements, **times[row.id]})


def recommend(
    rows: Sequence[MemberRow], reference: MemberRow, times: Mapping[str, Mapping[str, Any]], events: Events
) -> list[MemberRow]:
    """Recommend the members that are faster than every bigger one; say of the others why they are not."""
    everyone = [_timed(reference, times), *(_timed(row, times) for row in rows)]
    by_id = {row.id: row for row in everyone}
    macs = {row.id: row.measurements["macs"].value for row in everyone}
    # The runtime that ships, unless some member could not be exported to it.
    name = next(key for key in everyone[0].measurements if key.startswith("latency"))
    ratio = {row.id: float(row.measurements[name].details.get("ratio", 1.0)) for row in everyone}
    dropped = not_faster(list(by_id), macs, ratio)
    out = []
    for row in everyone[1:]:
        bigger = dropped.get(row.id)
        if bigger is None:
            out.append(replace(row, role="recommended"))
            continue
        own, other = row.measurements[name], by_id[bigger].measurements[name]
        note = (
            f"not faster than {bigger}, which is bigger: {own.value:.3g} ms against {other.value:.3g} ms "
            f"(batch {own.details.get('batch')}, {own.details.get('threads')} thread)"
        )
        events.note(f"{row.id} is {note}")
        out.append(replace(row, role="dropped", note=note))
    return out
