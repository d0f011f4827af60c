"""Keep a report's data as JSON: written whole or not at all, and checked when it is read again."""

from __future__ import annotations

import dataclasses
import json
import math
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..checks import CorruptFileError, WrongShapeError
from ..files import write_text
from ..measure import Measurement
from .data import ReportData

FORMAT = 1


def to_json(data: ReportData) -> str:
    """Return the data as JSON text. Raises :class:`WrongShapeError` where it can't be shown (see :func:`verify`)."""
    verify(data)
    record = {"format": FORMAT} | dataclasses.asdict(data)
    return json.dumps(record, indent=1, allow_nan=False, default=_plain)


def from_json(text: str, source: str = "the text") -> ReportData:
    """Rebuild the data from :func:`to_json`. Raises :class:`CorruptFileError` naming ``source`` where it is damaged."""
    try:
        record = json.loads(text)
        version = record.pop("format")
        if version != FORMAT:
            raise CorruptFileError(
                f"{source} has format {version}, this Pliant reads {FORMAT}: run again, or use the Pliant that wrote it"
            )
        data = build(ReportData, record)
        verify(data)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CorruptFileError(
            f"{source} is not a report's data ({error}): run `pliant run` again to write it"
        ) from error
    return typing.cast("ReportData", data)


def save(data: ReportData, path: str | Path) -> Path:
    """Write the data to ``path``, atomically, and return it."""
    return write_text(Path(path), to_json(data))


def load(path: str | Path) -> ReportData:
    """Read what :func:`save` wrote. Raises :class:`CorruptFileError` where the file is missing or damaged."""
    try:
        text = Path(path).read_text(encoding="utf-8")
    except FileNotFoundError:
        raise CorruptFileError(f"there is no {path}: the run has not finished yet, or this is not its folder") from None
    except (OSError, UnicodeDecodeError) as error:
        raise CorruptFileError(f"{path} can't be read: {error}") from error
    return from_json(text, str(path))


def verify(data: ReportData) -> None:
    """Raise :class:`WrongShapeError` unless there is one reference, ids are unique and every number is finite."""
    references = [member.id for member in data.members if member.role == "reference"]
    if len(references) != 1:
        raise WrongShapeError(
            f"a report has exactly one member of role 'reference', got {len(references)}: {references}"
        )
    ids = [member.id for member in data.members]
    twice = sorted({name for name in ids if ids.count(name) > 1})
    if twice:
        raise WrongShapeError(f"every member of a report has an id of its own, but {', '.join(twice)} came twice")
    for member in data.members:
        if data.error not in member.measurements:
            raise WrongShapeError(f"member {member.id} has no measurement {data.error!r}, the report's error")
        for name, measured in member.measurements.items():
            if not math.isfinite(measured.value):
                raise WrongShapeError(
                    f"{name} of member {member.id} is {measured.value}: only finite numbers are shown"
                )


def build(kind: Any, value: Any) -> Any:
    """Make a value of the annotated ``kind`` from plain JSON, following the dataclasses' own annotations."""
    if kind is Measurement:
        return Measurement.from_json(value)
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        return None if value is None else build(next(arg for arg in args if arg is not type(None)), value)
    if isinstance(kind, type) and dataclasses.is_dataclass(kind):
        hints = typing.get_type_hints(kind)
        strange = sorted(set(value) - set(hints))
        if strange:
            raise TypeError(f"{kind.__name__} has no field {', '.join(strange)}")
        return kind(**{name: build(hints[name], item) for name, item in value.items()})
    if origin is tuple:
        return tuple(build(args[0], item) for item in value)
    if origin is Mapping or (isinstance(origin, type) and issubclass(origin, Mapping)):
        return {name: build(args[1], item) for name, item in value.items()}
    if kind is float and isinstance(value, int):
        return float(value)
    if kind in (int, float, str, bool) and not isinstance(value, kind):
        raise TypeError(f"expected {kind.__name__}, got {value!r}")
    return value


def _plain(value: Any) -> Any:
    """Turn what JSON does not know into what it does: mappings of other types, NumPy numbers, paths."""
    if isinstance(value, Mapping):
        return dict(value)
    if hasattr(value, "item"):
        return value.item()
    return str(value)
