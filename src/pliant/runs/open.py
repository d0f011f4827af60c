"""What can be done with a finished run: extract and export its members, show its report again."""

from __future__ import annotations

import shlex
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from torch import nn

from .. import report as reports
from ..checks import NoEffectWarning, PliantError, unknown
from ..export import Artefact
from ..export import export as export_net
from ..family.family import Family
from ..report import ReportData
from ..space.config import Config
from ..study import Study
from ..tasks import Task, load_task
from ..tasks.guard import TaskMissingError
from .build import calibrate, timing_args
from .folder import RunFolder

SEARCH = "search.db"  # of `pliant search`, in the run's folder
OWN = "study.db"  # of `pliant run`


def family_of(run: Path) -> tuple[Family, Task, int]:
    """Return the trained family of a run, its task and its seed.

    Raises:
        PliantError: the task has changed, or the run has not been trained yet.
        CorruptFileError: the folder holds no run.
    """
    folder = RunFolder.open(run)
    if not folder.done("training"):
        raise PliantError(f"the run in {run} is not trained yet: run the same `pliant run` again, it goes on")
    asked = folder.record["asked"]
    task = _task_of(run, str(asked["task"]))
    if task.digest != asked["digest"]:
        raise PliantError(
            f"the task {task.name!r} has changed since the run in {run}; "
            "restore its file, or run again into a new folder"
        )
    with told_before():
        family = Family.load(run / "family", task.model())
    calibrate(family, task, int(asked["seed"]))
    return family, task, int(asked["seed"])


def _task_of(run: Path, place: str) -> Task:
    try:
        return load_task(place)
    except TaskMissingError as error:
        raise TaskMissingError(
            f"the task of the run in {run} was {place}, and there is no such file any more: put it back, or, if it has "
            f"moved, say so by the same `pliant run` with its new path and --out {shlex.quote(str(run))}"
        ) from error


@contextmanager
def told_before() -> Iterator[None]:
    """Say nothing of techniques that find nothing to do in a network: that was said when its family was first made."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NoEffectWarning)
        yield


def _parts(run: Path, member: str) -> tuple[Family, Task, Config, int]:
    RunFolder.open(run)
    config = _config(run, member)
    family, task, seed = family_of(run)
    return family, task, config, seed


def _config(run: Path, member: str) -> Config:
    """Return the config of a report's member (``m2``) or dot (``p12``), or of a trial of a later search (``t12``)."""
    file = run / {"t": SEARCH, "p": OWN}.get(member[:1], "")
    if member[1:].isdigit() and file.is_file():
        trials = {f"{member[0]}{trial.number}": trial.config for trial in Study.load(file).trials}
        if member not in trials:
            raise unknown(f"trial in {file}", member, trials)
        return trials[member]
    data: ReportData = reports.load(run / "report.json")
    config = next((Config(row.config) for row in data.members if row.id == member), None)
    if config is None:
        raise unknown(f"member in {run}", member, [row.id for row in data.members])
    return config


def extract(run: str | Path, member: str) -> nn.Module:
    """Return a member of a finished run as an independent network.

    Args:
        run: the run's folder.
        member: an id of the report, such as ``"m2"``, ``"full"`` or ``"p7"`` (a dot of its plot); or of a trial of
            `pliant search`, ``"t12"``.

    Raises:
        UnknownNameError: no such member; the nearest is offered.
        CorruptFileError: the folder holds no finished run.
    """
    family, _, config, _ = _parts(Path(run), member)
    return family.extract(config)


def export(run: str | Path, member: str, out: str | Path) -> Artefact:
    """Export a member of a finished run to ``out``; the suffix says in which format. Raises as :func:`extract`."""
    family, task, config, seed = _parts(Path(run), member)
    return export_net(family.extract(config), out, *timing_args(task, seed))


def report(run: str | Path) -> Path:
    """Write a finished run's page again from its stored data and return its path."""
    folder = Path(run)
    return reports.write_report(reports.load(folder / "report.json"), folder / "report.html")
