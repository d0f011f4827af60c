"""The settings of a run: the task's own, what the caller asks for instead, and whether they make sense."""

from __future__ import annotations

import difflib
import math
import warnings
from collections.abc import Mapping
from typing import Any

from ..checks import NoEffectWarning, PliantError, WrongShapeError
from ..tasks import Task
from .spec import checked_recipe

_WHOLE = ("steps", "budget")  # from 1 on
_LEAST = {"lr": math.nextafter(0.0, 1.0), "weight_decay": 0.0, "warmup": 0.0, "tolerance": 0.0}
_READ = ("steps", "budget", "lr", "weight_decay", "warmup", "tolerance", "unit", "recipe", "quick")


def settings_of(task: Task, quick: bool, asked: Mapping[str, Any]) -> dict[str, Any]:
    """Return the task's settings with what was asked for in their place, None standing for the task's own.

    Warns of names that look like misspelt ones (:class:`~pliant.checks.NoEffectWarning`); a task may have others.

    Raises:
        WrongShapeError: one is not a number, or out of range.
        PliantError: there is no such recipe, or its text cannot be read.
    """
    settings = task.settings_for(quick) | {name: value for name, value in asked.items() if value is not None}
    for name in dict.fromkeys([*task.settings, *task.settings.get("quick", {})]):
        near = [] if name in _READ else difflib.get_close_matches(str(name), _READ, 1, 0.75)
        if near:
            warnings.warn(
                f"SETTINGS of the task {task.name} has {name!r}, which no run reads; is {near[0]!r} meant?",
                NoEffectWarning,
                stacklevel=3,
            )
    for name in _WHOLE:
        _check(task, name, settings.get(name, 1), 1, "a whole number from 1 on", (int,))
    for name, least in _LEAST.items():
        what = "a number above 0" if name == "lr" else "0 or a number above"
        _check(task, name, settings.get(name, 1.0), least, what, (int, float))
    if not isinstance(settings.get("recipe", ""), str | None):
        raise PliantError(
            f"the recipe of a task is text, such as 'sandwich(between=1)'; SETTINGS of the task {task.name} has "
            f"{settings['recipe']!r:.80}"
        )
    settings["recipe"] = checked_recipe(settings.get("recipe"))
    return settings


def _check(task: Task, name: str, value: Any, least: float, what: str, kinds: tuple[type, ...]) -> None:
    if isinstance(value, bool) or not isinstance(value, kinds) or not least <= value < math.inf:  # type: ignore[operator]
        raise WrongShapeError(
            f"{name} is {what}, got {value!r}: it is asked for here, or stands in SETTINGS of the task {task.name}"
        )
