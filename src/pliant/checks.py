"""Every error that Pliant raises on purpose, and the words of its messages.

A message says what was expected, what came, and what to do. Nothing here imports another room.
"""

from __future__ import annotations

import difflib
import importlib
import operator
from collections.abc import Iterable
from types import ModuleType
from typing import Any


class PliantError(Exception):
    """The base of every error that Pliant raises on purpose: its text is meant for the user, whole."""


class UnknownNameError(PliantError, KeyError):
    """A choice, option, technique, task or file name that does not exist; the message offers the nearest."""

    def __str__(self) -> str:  # KeyError would print the repr of its argument
        return str(self.args[0])


class WrongShapeError(PliantError, ValueError):
    """Arguments, sizes or tensors that do not fit each other."""


class CaptureError(PliantError):
    """`torch.export` could not turn the model into a graph."""


class VerificationError(PliantError):
    """Two things that must agree (module and graph form, member and artefact) do not."""


class MissingExtraError(PliantError, ImportError):
    """An optional dependency is not installed; the message holds the install line."""


class CorruptFileError(PliantError, OSError):
    """A file that exists but is not what it should be."""


class TrainingDivergedError(PliantError, FloatingPointError):
    """A loss became NaN or infinite."""


class NoEffectWarning(UserWarning):
    """A technique found nothing to do."""


def first_line(error: BaseException) -> str:
    """Return the first line of an error's text, or its kind where it has none."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def nearest(name: str, known: Iterable[str]) -> str:
    """Return ``"; did you mean 'x'?"`` for the known name nearest to ``name``, or ``""`` if none is near."""
    found = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f"; did you mean {found[0]!r}?" if found else ""


def unknown(what: str, name: str, known: Iterable[str]) -> UnknownNameError:
    """Build the error for an unknown ``name`` of kind ``what`` (``"choice"``, ``"task"``, …)."""
    names = sorted(known)
    shown = ", ".join(names[:12]) + (f", … ({len(names)} in all)" if len(names) > 12 else "")
    return UnknownNameError(f"there is no {what} named {name!r}{nearest(name, names)} (known: {shown or 'none'})")


def whole(given: Any, what: str) -> int:
    """Return ``given`` as an int; whole numbers of NumPy and torch are taken too.

    Raises:
        WrongShapeError: it is no whole number.
    """
    try:
        if isinstance(given, bool):
            raise TypeError
        return operator.index(given)
    except TypeError:
        raise WrongShapeError(f"{what} is a whole number, got {given!r:.60}") from None


def require(module: str, extra: str) -> ModuleType:
    """Import an optional ``module`` or raise :class:`MissingExtraError` naming ``pip install 'pliant[extra]'``."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise MissingExtraError(
            f"this needs {module!r}, which is not installed: pip install 'pliant[{extra}]'"
        ) from error
