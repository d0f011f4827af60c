"""What a benchmark returns, how it is stored and how it is shown."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from importlib import metadata, util
from pathlib import Path
from typing import Any

import numpy as np

OUT = Path("bench-out")
_VERSIONS = ("numpy", "onnxruntime", "pliant", "timm", "torch", "torchvision", "transformers")


@dataclass(frozen=True)
class Figure:
    """One figure.

    Attributes:
        name: what was measured.
        value: the number (a median where it was timed).
        unit: such as ``"ms"``, ``"x"`` or ``"%"``.
        limit: the most that it may be; None where it is there for information.
        spread: the inter-quartile range.
        facts: whatever else is needed to read it: threads, repeats, sizes.
    """

    name: str
    value: float
    unit: str
    limit: float | None = None
    spread: float | None = None
    facts: dict[str, Any] = field(default_factory=dict)

    @property
    def passed(self) -> bool | None:
        """Whether the limit is kept; None without a limit."""
        return None if self.limit is None else self.value <= self.limit


def median(samples: Sequence[float] | np.ndarray) -> tuple[float, float]:
    """Return the median and the inter-quartile range."""
    low, middle, high = np.percentile(np.asarray(samples), [25, 50, 75])
    return float(middle), float(high - low)


def ratio(name: str, own: np.ndarray, other: np.ndarray, limit: float | None, **facts: Any) -> Figure:
    """Return the figure of two interleaved series of seconds: the median of their paired ratios."""
    value, spread = median(own / other)
    times = {"ms": median(own * 1e3)[0], "ms_reference": median(other * 1e3)[0], "repeats": len(own)}
    return Figure(name, value, "x", limit, spread, {**facts, **times})


def by_turns(calls: Sequence[Callable[[], float]], repeats: int) -> list[np.ndarray]:
    """Call each in turn ``repeats`` times, forwards and backwards; each returns the seconds that count."""
    samples = np.empty((len(calls), repeats))
    for repeat in range(repeats):
        order = range(len(calls)) if repeat % 2 == 0 else reversed(range(len(calls)))
        for index in order:
            samples[index, repeat] = calls[index]()
    return list(samples)


def versions() -> dict[str, str]:
    """Return the versions of what takes part, where installed."""
    found = {}
    for name in _VERSIONS:
        if util.find_spec(name) is not None:
            found[name] = metadata.version(name)
    return found


def store(name: str, arguments: Sequence[str], figures: Sequence[Figure], seconds: float) -> dict[str, Any]:
    """Write the figures of a benchmark to ``bench-out/NAME.json`` and return what was written."""
    from pliant.files import write_json
    from pliant.measure import machine

    record = {
        "benchmark": name,
        "arguments": list(arguments),
        "when": datetime.now(UTC).isoformat(timespec="seconds"),
        "seconds": round(seconds, 1),
        "machine": machine(),
        "versions": versions(),
        "figures": [{**asdict(figure), "passed": figure.passed} for figure in figures],
    }
    write_json(OUT / f"{name}.json", record)
    return record


def load(name: str) -> dict[str, Any]:
    """Read what :func:`store` wrote."""
    found: dict[str, Any] = json.loads((OUT / f"{name}.json").read_text(encoding="utf-8"))
    return found


def show(record: dict[str, Any]) -> None:
    """Print the table of a stored benchmark."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"{record['benchmark']} ({record['seconds']} s)", title_justify="left")
    for column in ("figure", "value", "spread", "limit", "", "facts"):
        table.add_column(column, justify="right" if column in ("value", "spread", "limit") else "left")
    for row in record["figures"]:
        spread = "" if row["spread"] is None else f"{row['spread']:.3g}"
        limit = "" if row["limit"] is None else f"{row['limit']:g}"
        verdict = {True: "kept", False: "MISSED", None: ""}[row["passed"]]
        facts = ", ".join(f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in row["facts"].items())
        table.add_row(row["name"], f"{row['value']:.4g} {row['unit']}", spread, limit, verdict, facts)
    console = Console(width=None if Console().is_terminal else 160)
    console.print(table)
    machine = record["machine"]
    console.print(f"{machine['cpu']}, {machine['cores']} cores, {machine['os']}, Python {machine['python']}")
    console.print(", ".join(f"{name} {version}" for name, version in record["versions"].items()), highlight=False)
