"""Write a commented task file for a user to start from."""

from __future__ import annotations

import os
import shlex
from pathlib import Path

from .guard import TaskError


def new_task(path: str | Path) -> Path:
    """Write the template to ``path`` (``.py`` is added where it is missing) and return the path.

    The file runs as it is. Raises :class:`TaskError` where the file exists already (nothing is overwritten), the
    folder does not, or it can't be written.
    """
    target = Path(path).expanduser()
    if target.is_dir():
        raise TaskError(f"{target} is a folder: give the name of the file to write, such as {target / 'my_task.py'}")
    if not target.suffix:
        target = target.with_suffix(".py")
    if target.suffix != ".py":
        raise TaskError(f"a task is a Python file: write {target.with_suffix('.py')} instead of {target}")
    if target.exists():
        raise TaskError(f"{target} exists already and is left as it is: choose another name")
    if not target.parent.is_dir():
        raise TaskError(f"there is no folder {target.parent}: make it first, or choose another")
    text = (
        Path(__file__)
        .with_name("template.py")
        .read_text(encoding="utf-8")
        .replace("THIS_FILE", shlex.quote(target.name))
    )
    try:
        _write(target, text)
    except OSError as error:
        raise TaskError(f"{target} can't be written: {error.strerror or error}") from error
    return target


def _write(target: Path, text: str) -> None:
    """Write whole or not at all."""
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)
