"""Trouble with a study's file, in words that help."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from ..checks import CorruptFileError, PliantError

_MAGIC = b"SQLite format 3\0"


def check_file(path: Path, *, create: bool) -> None:
    """Make sure that ``path`` is a sound study file, or that one may be made there; change nothing but its folder.

    Raises:
        CorruptFileError: it is not SQLite, is damaged, or holds another program's tables.
        PliantError: it or its folder cannot be read or written.
    """
    if path.is_dir():
        raise PliantError(f"{path} is a folder; a study is a file: try {path / 'study.db'}")
    if not path.exists():
        if not create:
            raise PliantError(f"there is no study file {path}")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise PliantError(f"cannot make the folder {path.parent} for the study: {error.strerror}") from error
    needed = os.W_OK if create else os.R_OK
    for place in [path.parent, path] if create else [path]:  # SQLite writes its journal into the folder
        if place.exists() and not os.access(place, needed):
            raise PliantError(
                f"cannot {'write' if create else 'read'} {place}: permission denied; choose another storage"
            )
    if path.exists() and path.stat().st_size:
        _check_content(path)
    elif not create:
        raise CorruptFileError(f"{path} is empty: there is no study in it")


def _check_content(path: Path) -> None:
    with path.open("rb") as file:
        if file.read(len(_MAGIC)) != _MAGIC:
            raise CorruptFileError(f"{path} is not a study file (SQLite); nothing was changed: choose another storage")
    # A kill in the middle of a write leaves a journal, which only a connection that may write can undo the write by.
    mode = "rw" if path.with_name(f"{path.name}-journal").exists() else "ro"
    with guarded(str(path)), closing(sqlite3.connect(f"{path.as_uri()}?mode={mode}", uri=True)) as connection:
        verdict = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
        tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    if verdict != "ok":
        raise CorruptFileError(f"{path} is damaged ({verdict}); nothing was changed: restore a copy of it")
    if tables and "studies" not in tables:
        shown = ", ".join(sorted(tables)[:5])
        raise CorruptFileError(f"{path} is another program's database (tables {shown}); choose another storage")


@contextmanager
def guarded(where: str | None) -> Iterator[None]:
    """Turn the errors of Optuna, SQLAlchemy and SQLite inside into ours; what was stored before stays stored."""
    try:
        yield
    except PliantError:
        raise
    except (ImportError, sqlite3.Error) as error:
        raise _translated(where, error) from error
    except Exception as error:
        if not type(error).__module__.startswith(("optuna.", "sqlalchemy.")):
            raise
        raise _translated(where, error) from error


def _translated(where: str | None, error: BaseException) -> PliantError:
    chain: list[str] = []
    cause: BaseException | None = error
    while cause is not None:
        chain.append(str(cause))
        cause = cause.__cause__ or cause.__context__
    text = " ".join(chain).lower()
    kept = "what was measured before is kept"
    if "locked" in text:
        return PliantError(f"{where} is locked by another program; close that and run the same again ({kept})")
    if "readonly" in text or "read-only" in text:
        return PliantError(f"{where} is read-only; make it writable or choose another storage ({kept})")
    if "disk is full" in text or "no space left" in text:
        return PliantError(f"the disk of {where} is full; free some space and run the same again ({kept})")
    if "malformed" in text or "not a database" in text or "no such table" in text:
        return CorruptFileError(f"{where} is damaged: {chain[-1]}; restore a copy of it or choose another storage")
    return PliantError(f"the storage {where} failed: {type(error).__name__}: {chain[-1]}")


@contextmanager
def quiet_optuna() -> Iterator[None]:
    """Keep Optuna's remarks (such as "a new study was created") out of the user's terminal."""
    import optuna

    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        yield
    finally:
        optuna.logging.set_verbosity(before)
