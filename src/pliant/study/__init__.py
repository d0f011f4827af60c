"""The durable search: what was measured, kept in an Optuna storage, and the loop that measures."""

from .importing import import_results as import_results
from .runner import search as search
from .study import Study as Study
from .trial import Trial as Trial
from .workers import InProcess as InProcess
from .workers import LocalProcesses as LocalProcesses
from .workers import RayTasks as RayTasks
from .workers import Workers as Workers

__all__ = [
    "InProcess",
    "LocalProcesses",
    "RayTasks",
    "Study",
    "Trial",
    "Workers",
    "import_results",
    "search",
]
