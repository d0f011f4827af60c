"""The record of a family: which techniques made it, with which fields. Loading replays it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from .. import catalog
from ..checks import CorruptFileError
from ..technique import Elastic
from .place import Placed


def technique_record(placed: Placed) -> dict[str, Any]:
    """Return a technique as plain data: its name in the catalogue, its fields, where it applies, what is left of it."""
    technique = placed.technique
    record = {
        "technique": type(technique).__name__,
        "fields": dataclasses.asdict(technique) if dataclasses.is_dataclass(technique) else {},
        "where": placed.where,
    }
    return record | {"few": dict(placed.few)} if placed.few else record


def replay(rows: list[Mapping[str, Any]]) -> list[Placed]:
    """Build the techniques of a record again.

    Raises:
        UnknownNameError: a technique that this installation does not have; the nearest name is offered.
        CorruptFileError: fields that the technique does not take.
    """
    found = []
    for row in rows:
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
