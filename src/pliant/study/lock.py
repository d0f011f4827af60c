"""One searcher per study file: a lock that the system lets go of when its process dies, however it dies."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import IO

from ..checks import PliantError


class FileLock:
    """Holds ``<file>.lock`` for this process.

    Raises:
        PliantError: another process holds it, or the file cannot be written.
    """

    def __init__(self, path: Path) -> None:
        self._path = path.with_name(path.name + ".lock")
        try:
            self._file: IO[str] = self._path.open("a", encoding="utf-8")
        except OSError as error:
            raise PliantError(
                f"cannot write {self._path}: {error.strerror}; choose a folder you may write to"
            ) from error
        try:
            _take(self._file)
        except OSError as error:
            self._file.close()
            raise PliantError(
                f"another process is searching into {path}; wait for it, stop it, or choose another storage"
            ) from error

    def release(self) -> None:
        """Let go of the lock. The empty file stays: removing it could take away the lock of a process just starting."""
        self._file.close()


if sys.platform == "win32":

    def _take(file: IO[str]) -> None:
        import msvcrt

        msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)

else:

    def _take(file: IO[str]) -> None:
        import fcntl

        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
