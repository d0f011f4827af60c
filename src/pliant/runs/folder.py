"""The folder of a run: what it was asked for, and which of its stages are done."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ..checks import CorruptFileError, PliantError
from ..files import write_json

_NAME = "run.json"
_FORMAT = 1


@dataclass
class RunFolder:
    """A run's folder; ``record`` is what ``run.json`` holds."""

    path: Path
    record: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def open(cls, path: Path) -> RunFolder:
        """Read the folder of an earlier run.

        Raises:
            CorruptFileError: there is no run in it, or its ``run.json`` is damaged.
        """
        file = path / _NAME
        if not file.is_file():
            raise CorruptFileError(
                f"there is no run in {path}: {_NAME} is missing; give the --out folder of `pliant run`"
            )
        try:
            record = json.loads(file.read_text(encoding="utf-8"))
            if int(record["format"]) != _FORMAT:
                raise CorruptFileError(f"{file} has format {record['format']}, this version of Pliant reads {_FORMAT}")
            for needed in ("asked", "stages", "created"):
                record[needed]
        except CorruptFileError:
            raise
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise CorruptFileError(
                f"{file} is damaged ({error}); restore it, or run again into another folder"
            ) from error
        return cls(path, record)

    @classmethod
    def claim(cls, path: Path, asked: Mapping[str, Any], free: tuple[str, ...] = ("budget",)) -> RunFolder:
        """Begin a run in ``path``, or go on with the same one.

        Args:
            path: the folder; made if it does not exist.
            asked: everything that determines the run's result.
            free: names in ``asked`` that may change from one call to the next.

        Raises:
            PliantError: the folder holds another run or other files, or cannot be written.
        """
        if (path / _NAME).is_file():
            found = cls.open(path)
            old, new = found.record["asked"], json.loads(json.dumps(dict(asked)))
            changed = [key for key in new if key not in free and old.get(key) != new[key]]
            if "digest" not in changed and "digest" in new:  # the same task, moved or named from another folder
                changed = [key for key in changed if key != "task"]
            if changed and found.record["stages"]:  # a run that ended before it made anything may be begun anew
                told = [key for key in changed if key != "digest" or "task" not in changed]
                what = "; ".join(_changed(key, old.get(key), new[key]) for key in told)
                raise PliantError(
                    f"{path} holds another run: {what}. Give the same arguments to go on with it, or another --out"
                )
            found.record["asked"] = new
            found.write()
            return found
        if path.is_file():
            raise PliantError(f"{path} is a file; give --out a folder")
        if path.is_dir() and any(not _left_by_a_kill(file) for file in path.iterdir()):
            raise PliantError(f"{path} holds files that are not of a run; give --out a new or an empty folder")
        folder = cls(path, {"format": _FORMAT, "asked": dict(asked), "created": _now(), "stages": {}})
        folder.write()
        return folder

    def write(self) -> None:
        """Store the record."""
        write_json(self.path / _NAME, self.record)

    def done(self, stage: str) -> bool:
        """Tell whether a stage is finished."""
        return stage in self.record["stages"]

    @contextmanager
    def timed(self, stage: str, finish: bool = True) -> Iterator[None]:
        """Time a stage over all calls and, if ``finish``, mark it as done when it ends without an error."""
        times = self.record.setdefault("seconds", {})
        start = time.perf_counter()
        try:
            yield
        finally:
            times[stage] = times.get(stage, 0.0) + time.perf_counter() - start
            self.write()
        if finish:
            self.record["stages"][stage] = _now()
            self.write()


def _changed(key: str, old: Any, new: Any) -> str:
    return "the task's file has changed since" if key == "digest" else f"{key} was {old!r}, is now {new!r}"


def _left_by_a_kill(file: Path) -> bool:
    return file.name.startswith(f".{Path(_NAME).stem}.") and ".tmp" in file.name


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
