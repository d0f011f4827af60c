"""One network in, a family out.

Every public name is found when it is first used, so that ``import pliant`` costs almost nothing: the nouns through the
table below, techniques (``pliant.Width``) through the catalog, by their file's name.
"""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

from .checks import NoEffectWarning as NoEffectWarning
from .checks import PliantError as PliantError
from .checks import nearest

if TYPE_CHECKING:
    from .export import Artefact as Artefact
    from .export import export as export
    from .family import Family as Family
    from .family import Growth as Growth
    from .family import Switched as Switched
    from .family import TreeCell as TreeCell
    from .family import architectures as architectures
    from .family import at as at
    from .graph import Analysis as Analysis
    from .graph import analyze as analyze
    from .measure import Bytes as Bytes
    from .measure import Latency as Latency
    from .measure import Macs as Macs
    from .measure import Measurement as Measurement
    from .measure import Metric as Metric
    from .measure import Objective as Objective
    from .measure import Params as Params
    from .measure import PeakMemory as PeakMemory
    from .measure import PlannedMemory as PlannedMemory
    from .space import Choice as Choice
    from .space import Config as Config
    from .space import Constraint as Constraint
    from .space import Program as Program
    from .space import Space as Space
    from .space import floatv as floatv
    from .space import manyof as manyof
    from .space import oneof as oneof
    from .space import symbolic as symbolic
    from .study import LocalProcesses as LocalProcesses
    from .study import RayTasks as RayTasks
    from .study import Study as Study
    from .study import Trial as Trial
    from .study import import_results as import_results
    from .study import search as search
    from .tasks import Task as Task
    from .tasks import load_task as load_task
    from .training import CachedTeacher as CachedTeacher
    from .training import Compute as Compute
    from .training import TrainingStep as TrainingStep
    from .training import distillation_loss as distillation_loss
    from .training import train as train

__version__ = "0.1.0"

# Public name: the room that has it.
_HOMES = {
    "Analysis": "graph",
    "analyze": "graph",
    "Choice": "space",
    "Config": "space",
    "Constraint": "space",
    "Program": "space",
    "Space": "space",
    "floatv": "space",
    "manyof": "space",
    "oneof": "space",
    "symbolic": "space",
    "Family": "family",
    "Growth": "family",
    "Switched": "family",
    "architectures": "family",
    "TreeCell": "family",
    "at": "family",
    "CachedTeacher": "training",
    "Compute": "training",
    "TrainingStep": "training",
    "distillation_loss": "training",
    "train": "training",
    "Bytes": "measure",
    "Latency": "measure",
    "Macs": "measure",
    "Measurement": "measure",
    "Metric": "measure",
    "Objective": "measure",
    "Params": "measure",
    "PeakMemory": "measure",
    "PlannedMemory": "measure",
    "LocalProcesses": "study",
    "RayTasks": "study",
    "Study": "study",
    "Trial": "study",
    "import_results": "study",
    "search": "study",
    "Artefact": "export",
    "export": "export",
    "Task": "tasks",
    "load_task": "tasks",
}


def __getattr__(name: str) -> Any:
    if name.startswith("_"):
        raise AttributeError(f"module 'pliant' has no attribute {name!r}")
    if name in _HOMES:
        found = getattr(import_module(f".{_HOMES[name]}", __name__), name)
    else:
        catalog = import_module(".catalog", __name__)  # `from . import` would ask this function for it
        if not catalog.has(name):
            hint = nearest(name, [*_HOMES, *catalog.classes()])
            raise AttributeError(f"module 'pliant' has no attribute {name!r}{hint}")
        found = catalog.load(name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    catalog = import_module(".catalog", __name__)
    return sorted({"NoEffectWarning", "PliantError", "__version__", *_HOMES, *catalog.classes()})


class _Package(ModuleType):
    """Keeps ``pliant.export`` the function: importing the room of the same name would put the room in its place."""

    def __setattr__(self, name: str, value: Any) -> None:
        if isinstance(value, ModuleType) and name in _HOMES:
            value = getattr(value, name)
        super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
