"""What can be done with a finished run: extract and export its members, show its report again."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from .. import report as reports
from ..checks import PliantError, unknown
from ..export import Artefact
from ..export import export as export_net
from ..family.family import Family
from ..report import ReportData
from ..space.config import Config
from ..tasks import Task, load_task
from .build import calibrate, timing_args
from .folder import RunFolder


def _parts(run: Path, member: str) -> tuple[Family, Task, Config, int]:
    folder = RunFolder.open(run)
    data: ReportData = reports.load(run / "report.json")
    config = next((Config(row.config) for row in data.members if row.id == member), None)
    if config is None:
        raise unknown(f"member in {run}", member, [row.id for row in data.members])
    asked = folder.record["asked"]
    task = load_task(asked["task"])
    if task.digest != asked["digest"]:
        raise PliantError(
            f"the task {task.name!r} has changed since the run in {run}; "
            "restore its file, or run again into a new folder"
        )
    family = Family.load(run / "family", task.model())
    calibrate(family, task, int(asked["seed"]))
    return family, task, config, int(asked["seed"])


def extract(run: str | Path, member: str) -> nn.Module:
    """Return a member of a finished run as an independent network.

    Args:
        run: the run's folder.
        member: an id of the report, such as ``"m2"`` or ``"full"``.

    Raises:
        UnknownNameError: no such member; the nearest is offered.
        CorruptFileError: the folder holds no finished run.
    """
    family, _, config, _ = _parts(Path(run), member)
    return family.extract(config)


def export(run: str | Path, member: str, out: str | Path) -> Artefact:
    """Export a member of a finished run to ``out``; the suffix says in which format. Raises as :func:`extract`."""
    family, task, config, seed = _parts(Path(run), member)
    return export_net(family.extract(config), out, timing_args(task, seed))


def report(run: str | Path) -> Path:
    """Write a finished run's page again from its stored data and return its path."""
    folder = Path(run)
    return reports.write_report(reports.load(folder / "report.json"), folder / "report.html")
