"""What Python does with a family as a whole: copy it (for moving averages, or to go back to), pickle it, show it."""

from __future__ import annotations

import copy
from decimal import Decimal
from typing import TYPE_CHECKING, Any, NoReturn

from ..checks import PliantError

if TYPE_CHECKING:
    from .family import Family


def duplicate(family: Family, memo: dict[int, Any]) -> Family:
    """Return what ``copy.deepcopy`` gives: the copy of the model is captured anew, as members refer to their own."""
    constraints = [str(constraint) for constraint in family.space.constraints]
    model = copy.deepcopy(family.model, memo)
    args, kwargs = family.example()
    only = family.analysis.capture.scope.only or None
    made = type(family)(model, args, family.techniques, kwargs, constraints, only=only)
    made.extra.load(family.extra.state())
    made.prepared = family.prepared
    made._calibration = list(family._calibration)
    memo[id(family)] = made
    return made


def refuse_to_pickle(family: Family) -> NoReturn:
    """Raise the error that says what to do instead.

    Raises:
        PliantError: always.
    """
    raise PliantError(
        "a family cannot be pickled: family.save(folder) stores it, and Family.load(folder, model) reads it back"
    )


def shown(family: Family) -> str:
    """Return what a notebook shows of a family."""
    size, choices = family.space.size, len(family.space.choices)
    many = str(size) if size < 10**6 else f"{Decimal(size):.1e}"  # a space may have more than a float can count
    return f"Family({type(family.model).__name__}: {choices} choices, {many} members; members in {family.form} form)"
