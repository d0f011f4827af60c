"""Writing files so that nothing is ever lost: a temporary name in the same folder, then a rename."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from .checks import PliantError


def write_whole(path: Path, write: Callable[[Path], None]) -> Path:
    """Call ``write`` with a temporary path beside ``path`` and rename it to ``path`` when it is whole.

    Raises:
        PliantError: the folder cannot be written or the disk is full; what stood at ``path`` is untouched.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
        os.close(handle)
    except OSError as error:
        raise PliantError(
            f"cannot write {path}: {error.strerror or error}; choose a folder that can be written"
        ) from error
    temporary = Path(name)
    try:
        write(temporary)
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)
        temporary.replace(path)
    except OSError as error:
        raise PliantError(
            f"cannot write {path}: {error.strerror or error}; free some space or choose another folder "
            "(what was there before is untouched)"
        ) from error
    finally:
        temporary.unlink(missing_ok=True)
    return path


def write_text(path: Path, text: str) -> Path:
    """Write a text file whole or not at all."""

    def write(temporary: Path) -> None:
        temporary.write_text(text, encoding="utf-8")

    return write_whole(path, write)


def write_json(path: Path, value: Any) -> Path:
    """Write a JSON file whole or not at all."""
    return write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> Path:
    """Write a safetensors file whole or not at all; tied tensors must have been reduced to one name before."""
    from safetensors.torch import save_file

    plain = {name: tensor.detach().contiguous().clone() for name, tensor in tensors.items()}
    return write_whole(path, lambda temporary: save_file(plain, temporary, dict(metadata or {})))
