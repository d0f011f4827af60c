"""Writing files so that nothing is ever lost: a temporary name in the same folder, then a rename."""

from __future__ import annotations

import errno
import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError

from .checks import PliantError

if TYPE_CHECKING:
    from torch import Tensor


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
    except (RuntimeError, SafetensorError) as error:  # the libraries' own writers report a full disk so
        if not any(word in str(error) for word in ("file write failed", "PytorchStreamWriter", "os error")):
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


def write_text(path: Path, text: str) -> Path:
    """Write a text file whole or not at all."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return path


def write_json(path: Path, value: Any) -> Path:
    """Write a JSON file whole or not at all."""
    return write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> Path:
    """Write a safetensors file whole or not at all; tensors that share memory are written once each."""
    from safetensors.torch import save_file

    plain = {name: tensor.detach().contiguous().clone() for name, tensor in tensors.items()}
    with replacing(path) as temporary:
        save_file(plain, temporary, dict(metadata or {}))
    return path


def digest(tensors: Mapping[str, Tensor]) -> str:
    """Return 16 hexadecimal digits that tell named tensors, their shapes and types from all others (SHA-256)."""
    import torch

    total = hashlib.sha256()
    for name in sorted(tensors):
        flat = tensors[name].detach().cpu().contiguous().reshape(-1)
        total.update(f"{name}{tuple(tensors[name].shape)}{flat.dtype}".encode())
        total.update(flat.view(torch.uint8).numpy().data if flat.numel() else b"")
    return total.hexdigest()[:16]
