"""Errors raised inside a task's own code, told with the author's file and line instead of a traceback of ours."""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..checks import PliantError


class TaskError(PliantError):
    """A task's file or one of its functions is not what it should be."""


class TaskMissingError(TaskError):
    """There is no such file."""


@contextmanager
def guarded(source: Path, what: str) -> Iterator[None]:
    """Turn an exception raised within into a :class:`TaskError` that says where in ``source`` it came from.

    ``what`` is the function being called, or ``""`` while the file is being read. Errors of Pliant's own pass
    through unchanged, and so do Ctrl-C and a generator's end.
    """
    try:
        yield
    except (PliantError, KeyboardInterrupt, GeneratorExit):
        raise
    except BaseException as error:  # a SystemExit in a user's file must not end the run silently
        raise TaskError(tell(source, what, error)) from error


def tell(source: Path, what: str, error: BaseException) -> str:
    """Say in two or three lines what ``error`` is and where in ``source`` it came from, with that line's text."""
    doing = f"{what}() raised" if what else "reading it raised"
    line, text = _place(source, error)
    where = f"{source}, line {line}" if line else str(source)
    shown = f"\n    {text}" if text else ""
    reason = error.msg if isinstance(error, SyntaxError) else str(error)
    return f"{where}: {doing} {type(error).__name__}{': ' if reason else ''}{reason}{shown}"


def _place(source: Path, error: BaseException) -> tuple[int | None, str]:
    """Return the innermost line of ``source`` that took part, and its text; ``(None, "")`` if none did."""
    if isinstance(error, SyntaxError) and error.filename and _same(error.filename, source):
        return error.lineno, (error.text or "").strip()
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if _same(frame.filename, source)]
    return (frames[-1].lineno, (frames[-1].line or "").strip()) if frames else (None, "")


def _same(file_name: str, source: Path) -> bool:
    try:
        return Path(file_name).resolve() == source.resolve()
    except OSError:
        return False
