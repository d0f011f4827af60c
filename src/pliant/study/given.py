"""Arguments of a search as users give them: lists that are none, numbers that are not whole, names that clash."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from ..checks import WrongShapeError
from ..measure import Objective
from ..space import Space


def space_of(family: Any) -> Space:
    """Return what is searched of ``family``.

    Raises:
        WrongShapeError: it is none.
    """
    space = getattr(family, "space", None)
    if not isinstance(space, Space):
        raise WrongShapeError(
            f"a search is over a family, got {type(family).__name__}: make one as "
            "pliant.Family(model, example_args, choices=[pliant.Width()])"
        )
    return space


def several(given: Any, what: str) -> list[Any]:
    """Return ``given`` as a list.

    Raises:
        WrongShapeError: it is a single thing.
    """
    if isinstance(given, str) or not isinstance(given, Iterable):
        raise WrongShapeError(f"{what} is a list, got {given!r}: write {what}=[{_short(given)}]")
    return list(given)


def _short(given: Any) -> str:
    return repr(given) if isinstance(given, str) else f"{type(given).__name__}(…)"


def checked_objectives(objectives: Sequence[Any], space: Space) -> list[str]:
    """Return the names of ``objectives``, extras included.

    Raises:
        WrongShapeError: one is no objective or has no name, or a name is there twice or is that of a choice.
    """
    for objective in objectives:
        if not isinstance(objective, Objective):
            raise WrongShapeError(
                f"an objective is an instance of pliant.Objective, got {objective!r}; "
                + (
                    "put () behind it, with what it needs inside"
                    if isinstance(objective, type)
                    else "wrap a function as pliant.Metric('error', function)"
                )
            )
        if not isinstance(objective.name, str) or not objective.name.strip():
            raise WrongShapeError(f"the name of an objective is a word such as 'error', got {objective.name!r}")
    names = [str(objective.name) for objective in objectives]
    repeated = {name for name in names if names.count(name) > 1}
    if repeated:
        raise WrongShapeError(f"two objectives are named {min(repeated)!r}: give each its own name")
    taken = sorted({*names} & {choice.name for choice in space.choices})
    if taken:
        raise WrongShapeError(f"{taken[0]!r} is the name of an objective and of a choice: give the objective another")
    return names
