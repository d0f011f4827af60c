"""Writing a file whole or not at all."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ..checks import PliantError


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary name in the folder of ``path``; it takes ``path``'s place if nothing is raised inside.

    Whatever was at ``path`` stays as it was until then, and the temporary file never outlives the block.

    Raises:
        PliantError: the folder cannot be made or written, or the disk is full.
    """
    temporary = path.with_name(f".{path.stem}.{os.getpid()}.tmp{path.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.is_dir():
            raise PliantError(f"{path} is a folder, not a file")
        yield temporary
        _flush(temporary)
        temporary.replace(path)
    except OSError as error:
        if isinstance(error, PliantError):
            raise
        raise _explained(path, error) from error
    except RuntimeError as error:  # torch's own writer reports a full disk so
        if "file write failed" not in str(error) and "PytorchStreamWriter" not in str(error):
            raise
        raise PliantError(f"could not write {path}: {error}; is the disk full? No file was left behind") from error
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def _flush(path: Path) -> None:
    """Have the bytes on the disk before the name points at them."""
    with path.open("rb") as file:
        os.fsync(file.fileno())


def _explained(path: Path, error: OSError) -> PliantError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return PliantError(f"no space left on the disk for {path}; nothing was left behind: free some and try again")
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return PliantError(f"cannot write {path}: {error.strerror}; choose a folder you may write to")
    return PliantError(f"cannot write {path}: {error.strerror or error}")
