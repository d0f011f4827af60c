"""What a training run is asked for, checked before anything is changed."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from numbers import Real
from typing import Any

import torch
from torch import nn

from .. import catalog
from ..checks import PliantError, WrongShapeError, whole
from ..family.family import Family
from ..technique import Recipe
from .compute import Compute
from .optimizer import default_optimizer

_SEEDS = (-(2**63), 2**64 - 1)  # what torch.manual_seed takes


def _between(value: Any, name: str, least: int, most: int | None = None) -> int:
    found = whole(value, name)
    if found < least or (most is not None and found > most):
        bounds = f"a whole number, {least} or more" if most is None else f"a whole number from {least} to {most}"
        raise WrongShapeError(f"{name} is {bounds}; got {found}")
    return found


def checked_numbers(steps: Any, save_every: Any, seed: Any) -> tuple[int, int, int]:
    """Return a run's whole numbers; raises :class:`~pliant.checks.WrongShapeError`."""
    return _between(steps, "steps", 0), _between(save_every, "save_every", 1), _between(seed, "seed", *_SEEDS)


def check_rates(clip: Any, warmup: Any, schedule: Any) -> None:
    """See that a run's rates can be used.

    Raises:
        WrongShapeError: ``clip`` is not above 0, ``warmup`` not a number from 0 on, or ``schedule`` no function.
    """
    if clip is not None and not (isinstance(clip, Real) and float(clip) > 0):
        raise WrongShapeError(
            f"clip is the largest norm of the gradients, above 0, or None for no clipping; got {clip!r}"
        )
    if warmup is not None and not (isinstance(warmup, Real) and 0 <= float(warmup) < math.inf):
        raise WrongShapeError(f"warmup is the share of the steps in which the rate rises, 0 or more; got {warmup!r}")
    if schedule is not None and not callable(schedule):
        raise WrongShapeError(
            "schedule is a function from the share of the steps done, 0 to 1, to a factor of the learning rate, "
            f"such as lambda done: 1 - done; got {schedule!r:.60}"
        )


def check_parts(family: Any, loss: Any, teacher: Any, compute: Any, rates: tuple[Any, Any, Any]) -> None:
    """See that a run's parts are what they should be; raises :class:`~pliant.checks.PliantError`.

    ``rates`` are clip, warmup and schedule.
    """
    check_rates(*rates)
    if not isinstance(family, Family):
        raise PliantError(
            "what is trained is a family: pliant.Family(model, example_args, choices=[...]); "
            f"got {type(family).__name__}"
        )
    if not callable(loss):
        raise PliantError(f"loss is a function loss(outputs, targets) that gives a scalar tensor; got {loss!r:.60}")
    if teacher is not None and not isinstance(teacher, nn.Module):
        raise PliantError(f"teacher is a network, an nn.Module; put the function into one; got {teacher!r:.60}")
    if compute is not None and not isinstance(compute, Compute):
        raise PliantError(f"compute is a pliant.Compute(precision='bfloat16', ...); got {compute!r:.60}")


def checked_recipe(recipe: Any) -> Recipe:
    """Return the recipe, the catalogue's default if None; raises :class:`~pliant.checks.PliantError`."""
    found = recipe or catalog.default("train")
    if not isinstance(found, Recipe):
        hint = f": write {recipe.__name__}()" if isinstance(recipe, type) else ""
        raise PliantError(
            f"recipe is a training technique such as pliant.catalog.default('train'); got {recipe!r:.200}{hint}"
        )
    return found


def checked_optimizer(optimizer: Any, family: Family) -> torch.optim.Optimizer:
    """Return an optimizer that can train a family, AdamW if None.

    Raises:
        PliantError: it is none, has none of the family's parameters, or wants to run the network itself.
    """
    if optimizer is None:
        return default_optimizer(family.parameters())
    if not isinstance(optimizer, torch.optim.Optimizer):
        raise PliantError(
            "optimizer is made of the family's parameters, such as torch.optim.AdamW(family.parameters(), lr=1e-3); "
            f"got {optimizer!r:.60}"
        )
    name = type(optimizer).__name__
    own = {id(parameter) for parameter in family.parameters()}
    given = [id(parameter) for group in optimizer.param_groups for parameter in group["params"]]
    if own and own.isdisjoint(given):
        raise PliantError(
            f"this {name} has {len(given)} parameters, none of them the family's, so nothing would be learnt; make it "
            f"of them: torch.optim.{name}(family.parameters(), ...)"
        )
    if _wants_closure(optimizer.step):
        raise PliantError(
            f"{name} runs the network again and again within a step, by a closure, and which members learn from a "
            "batch is the recipe's business; use one that steps on gradients, such as torch.optim.AdamW or SGD"
        )
    return optimizer


def _wants_closure(step: Callable[..., Any]) -> bool:
    parameters = inspect.signature(step).parameters
    return "closure" in parameters and parameters["closure"].default is inspect.Parameter.empty
