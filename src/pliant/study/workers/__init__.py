"""Who measures: this process, others beside it, or other machines."""

from .base import Crew as Crew
from .base import Report as Report
from .base import Workers as Workers
from .base import workers as workers
from .in_process import InProcess as InProcess
from .local import LocalProcesses as LocalProcesses
from .ray_tasks import RayTasks as RayTasks

__all__ = ["Crew", "InProcess", "LocalProcesses", "RayTasks", "Report", "Workers", "workers"]
