"""One measured number with its unit, its spread and how it came about."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Measurement:
    """A measured value.

    Attributes:
        value: the number, in ``unit``.
        unit: ``"ms"``, ``"MACs"``, ``"bytes"``, ``"%"`` …; empty for a pure number.
        spread: the inter-quartile range of the repeats, in ``unit``; ``None`` for what is counted, not timed.
        details: JSON-safe facts behind the number: machine, runtime, threads, batch, repeats, ratio to a reference …
    """

    value: float
    unit: str
    spread: float | None = None
    details: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Return a dictionary that ``json.dumps`` accepts; raise ``TypeError`` where ``details`` is not JSON-safe."""
        record = {"value": self.value, "unit": self.unit, "spread": self.spread, "details": dict(self.details)}
        json.dumps(record)
        return record

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> Measurement:
        """Rebuild a measurement from :meth:`to_json`."""
        spread = record.get("spread")
        return cls(
            value=float(record["value"]),
            unit=str(record["unit"]),
            spread=None if spread is None else float(spread),
            details=dict(record.get("details", {})),
        )

    def __str__(self) -> str:
        spread = "" if self.spread is None else f" ± {self.spread:.3g}"
        return f"{self.value:.4g}{spread} {self.unit}".rstrip()
