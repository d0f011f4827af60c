"""The record of a family: which techniques made it, with which fields. Loading replays it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from json import dumps, loads
from typing import Any

from .. import catalog
from ..checks import CorruptFileError, WrongShapeError
from ..technique import Elastic
from .place import Placed


def technique_record(placed: Placed) -> dict[str, Any]:
    """Return a technique as plain data: its name in the catalogue, its fields, where it applies, what is left of it."""
    technique = placed.technique
    record = {
        "technique": type(technique).__name__,
        "fields": technique.record(),
        "where": placed.where,
    }
    return record | {"few": dict(placed.few)} if placed.few else record


def replay(rows: list[Mapping[str, Any]], given: Sequence[Placed] = ()) -> list[Placed]:
    """Build the techniques of a record again.

    Args:
        rows: the record.
        given: techniques that stand for those of the same record, for instance because they hold code.

    Raises:
        UnknownNameError: a technique that this installation does not have; the nearest name is offered.
        CorruptFileError: fields that the technique does not take.
        WrongShapeError: a given technique is not in the record.
    """
    found = []
    held = [(placed, as_json(technique_record(placed))) for placed in given]
    for placed, record in held:
        if record not in rows:
            raise WrongShapeError(
                f"{placed} is none of the techniques that this family was made of, which are {_shown(rows)}; give it "
                "with the same fields, and at the same place"
            )
    for row in rows:
        mine = next((placed for placed, record in held if record == row), None)
        if mine is not None:
            found.append(mine)
            continue
        try:
            name, where = str(row["technique"]), str(row["where"])
            fields = {field: tuple(v) if isinstance(v, list) else v for field, v in row["fields"].items()}
            few = tuple((str(choice), tuple(options)) for choice, options in row.get("few", {}).items())
        except (KeyError, TypeError, AttributeError) as error:
            raise CorruptFileError(f"{row!r} is no record of a technique; restore the file from a copy") from error
        kind = catalog.load(name)
        try:
            technique = kind(**fields)
        except TypeError as error:
            raise CorruptFileError(
                f"the record holds {name}({', '.join(fields)}), which this version does not take: {error}; "
                "load it with the version of Pliant that wrote it"
            ) from error
        if not isinstance(technique, Elastic):
            raise CorruptFileError(f"the record names {name!r}, which adds no choices to a family")
        found.append(Placed(technique, where, few))
    return found


def as_json(record: dict[str, Any]) -> Any:
    """Return a record as it is read back from a file."""
    return loads(dumps(record))


def _shown(rows: Sequence[Mapping[str, Any]]) -> str:
    return "; ".join(f"{row.get('technique')} {row.get('fields')} at {row.get('where')!r}" for row in rows)
