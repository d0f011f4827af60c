"""Tasks: real data, a network, a loss and a measure of error. Importing this room reads no data."""

from __future__ import annotations

from .guard import TaskError as TaskError
from .load import BUILT_IN as BUILT_IN
from .load import load_task as load_task
from .new_task import new_task as new_task
from .task import Task as Task
from .task import check as check
