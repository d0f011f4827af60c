"""What the rows of a storage hold, and how several of one config make a trial."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..measure import Measurement
from ..space import Config, Constraint, Space
from .encoding import from_params
from .trial import Trial


@dataclass(frozen=True)
class Record:
    """One finished row: one measurement of one config, or the failure of one.

    Attributes:
        order: rows are told to a searcher, and numbered, by this.
        config: as stored.
        measurements: by name; empty where it failed.
        error: why it failed.
        repeat: 0 for the first measurement of a config, then 1, 2, …
        free: not asked for by a searcher that was alone when it asked: told without being asked for.
        imported: the file it came from.
    """

    order: tuple[int, int]
    config: Config
    measurements: Mapping[str, Measurement] = field(default_factory=dict)
    error: str = ""
    repeat: int = 0
    free: bool = False
    imported: str = ""

    @property
    def failed(self) -> bool:
        """Whether there is no value."""
        return not self.measurements

    @classmethod
    def of(cls, row: Any, space: Space, names: Sequence[str]) -> Record:
        """Read a finished row of Optuna's, ours or one that another program made in our study.

        Raises:
            CorruptFileError: it holds no config of ``space``.
        """
        attributes = row.user_attrs
        result = attributes.get("result", {})
        found = {name: Measurement.from_json(record) for name, record in result.get("measurements", {}).items()}
        if row.values is None:
            found = {}
        for name, value in zip(names, row.values or (), strict=False):  # where another program measured
            found.setdefault(name, Measurement(value, ""))
        return cls(
            order=(int(result.get("after", -1)), int(row.number)),
            config=from_params(space, row.params),
            measurements=found,
            error=str(result.get("error", "")),
            repeat=int(attributes.get("repeat", 0)),
            free=bool(attributes.get("free", not result)),
            imported=str(attributes.get("imported", "")),
        )


def assembled(records: Iterable[Record], plan: Mapping[str, Any]) -> list[Trial]:
    """Return the trials that ``records`` make: one for each first measurement, repeats put into it.

    Args:
        records: in any order.
        plan: what the study was made for, see :meth:`Plan.record`.
    """
    first: list[Record] = []
    repeats: dict[Config, list[Record]] = {}
    for record in sorted(records, key=lambda each: each.order):
        if record.repeat:
            repeats.setdefault(record.config, []).append(record)
        else:
            first.append(record)
    return [trial_of(number, [record, *repeats.get(record.config, ())], plan) for number, record in enumerate(first)]


def trial_of(number: int, records: Sequence[Record], plan: Mapping[str, Any]) -> Trial:
    """Return the trial of one config: ``records`` are its first measurement and those that repeat it."""
    first = records[0]
    if first.failed:
        return Trial(number, first.config, state="failed", error=first.error, violation=math.inf)
    good = [record for record in records if not record.failed]
    together = {
        name: combined([record.measurements[name] for record in good if name in record.measurements])
        for name in first.measurements
    }
    values = {name: together[name].value for name, _, _ in plan["objectives"]}
    return Trial(
        number,
        first.config,
        values,
        together,
        violation=sum(violations(plan, together)),
    )


def violations(plan: Mapping[str, Any], measurements: Mapping[str, Measurement]) -> list[float]:
    """Return by how much each constraint of ``plan`` is broken."""
    values = {name: measurement.value for name, measurement in measurements.items()}
    constraints = [Constraint.parse(text) for text in plan["constraints"]]
    return [each.violation(values) if each.name in values else 0.0 for each in constraints]


def combined(measurements: Sequence[Measurement]) -> Measurement:
    """Return the mean of several measurements of one thing, with their quartile range and each of them inside."""
    if len(measurements) == 1:
        return measurements[0]
    values = [measurement.value for measurement in measurements]
    low, high = np.percentile(values, [25, 75])
    each = [
        {"value": one.value, "spread": one.spread, **{key: one.details[key] for key in _KEPT if key in one.details}}
        for one in measurements
    ]
    counts = [int(one.details.get("repeats", 1)) for one in measurements]
    details = {**measurements[0].details, "repeats": sum(counts), "measured": len(values), "each": each}
    return Measurement(float(np.mean(values)), measurements[0].unit, float(high - low), details)


_KEPT = ("seed", "repeats", "machine")
