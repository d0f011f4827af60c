"""A searcher that works inside another, as a user gives it."""

from __future__ import annotations

from ... import catalog
from ...checks import WrongShapeError
from ...technique import Searcher


def searcher_of(given: str | Searcher, what: str) -> Searcher:
    """Return the searcher that ``given`` is, or names: then with its default settings.

    Args:
        given: a searcher, or the name of a technique.
        what: the field that it was given for, for messages.

    Raises:
        UnknownNameError: there is no such technique; offers the nearest.
        WrongShapeError: it is none of the kind 'search'.
    """
    made = catalog.load(given)() if isinstance(given, str) else given
    if isinstance(made, type) or not isinstance(made, Searcher):
        raise WrongShapeError(
            f"{what} is a searcher such as pliant.Nsga2(), or the name of a technique of kind 'search', got {given!r}"
            + ("; put () behind it" if isinstance(given, type) else "")
        )
    return made
