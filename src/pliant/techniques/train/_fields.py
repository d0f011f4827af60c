"""Checks of recipes' fields, with one message for all of them."""

from __future__ import annotations

from ...checks import WrongShapeError
from ...technique import Recipe


def check_shares(recipe: Recipe, *names: str) -> None:
    """Complain about fields that are no share, from 0 to 1.

    Raises:
        WrongShapeError: names the first such field and what it should be.
    """
    for name in names:
        if not 0 <= getattr(recipe, name) <= 1:
            refuse(recipe, name, "a share, from 0 to 1")


def check_positive(recipe: Recipe, *names: str) -> None:
    """Complain about fields that are not above 0 and finite; raises as :func:`check_shares`."""
    for name in names:
        if not 0 < getattr(recipe, name) < float("inf"):
            refuse(recipe, name, "a finite number above 0")


def check_counts(recipe: Recipe, least: int, *names: str) -> None:
    """Complain about fields that are no whole number of at least ``least``; raises as :func:`check_shares`."""
    for name in names:
        value = getattr(recipe, name)
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            refuse(recipe, name, f"a whole number, {least} or more")


def refuse(recipe: Recipe, name: str, wanted: str) -> None:
    """Raise :class:`~pliant.checks.WrongShapeError` for a field: what it is, and what came."""
    raise WrongShapeError(f"{type(recipe).__name__}.{name} is {wanted}; got {getattr(recipe, name)!r}")
