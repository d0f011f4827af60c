"""Numbers and names as people read them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from ..measure import Measurement
from .data import ReportData

LABELS = {
    "error": "Error",
    "macs": "MACs",
    "params": "Parameters",
    "bytes": "File size",
    "memory": "Peak memory",
    "latency": "Latency",
    "bits_per_char": "Bits per character",
}
RUNTIMES = {"torch": "PyTorch", "onnxruntime": "ONNX Runtime", "openvino": "OpenVINO"}
_RAISED = str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹")
_SCALES = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))


def label(name: str) -> str:
    """Return a measurement's name as a heading: ``"test_error"`` to ``"Test error"``."""
    if name in LABELS:
        return LABELS[name]
    known = next((key for key in LABELS if name.startswith(f"{key}_")), "")
    if known:
        rest = name.removeprefix(f"{known}_")
        return f"{LABELS[known]}, {RUNTIMES.get(rest, rest.replace('_', ' '))}"
    return name.replace("_", " ").capitalize()


def digits(value: float, count: int = 3) -> str:
    """Return ``value`` to ``count`` significant digits, without an exponent where that is readable."""
    if value == 0:
        return "0"
    if not 1e-4 <= abs(value) < 1e6:
        return f"{value:.{count - 1}e}"
    decimals = max(0, count - 1 - _magnitude(value))
    return f"{value:,.{decimals}f}".replace(",", "\u202f")


def _magnitude(value: float) -> int:
    return int(f"{abs(value):e}".partition("e")[2])


def quantity(value: float, unit: str) -> str:
    """Return a value with its unit: ``1.23 M``, ``45.6 kB``, ``3.34 %``, ``0.412 ms``."""
    if unit in ("MACs", "parameters", "bytes"):
        scale, prefix = next(((scale, prefix) for scale, prefix in _SCALES if abs(value) >= scale), (1.0, ""))
        suffix = "B" if unit == "bytes" else ""
        return f"{digits(value / scale)} {prefix}{suffix}".strip() if scale > 1 else f"{value:.0f} {suffix}".strip()
    if unit == "%":
        return f"{value:.2f} %"
    if unit == "ms" and abs(value) < 0.1:
        return f"{digits(value * 1e3)} µs"
    return f"{digits(value)} {unit}".strip()


def measured(measurement: Measurement) -> str:
    """Return a measurement's value with its unit."""
    return quantity(measurement.value, measurement.unit)


def circumstances(measurement: Measurement) -> list[str]:
    """Return how a number came about: a phrase on its spread and repeats, one on its runtime, batch and threads."""
    details, how, where = measurement.details, [], []
    if measurement.spread is not None:
        # to as many decimals as the value beside it, and in the same unit
        small = measurement.unit == "ms" and abs(measurement.value) < 0.1
        spread, unit = (measurement.spread * 1e3, "µs") if small else (measurement.spread, measurement.unit)
        how.append(f"spread {digits(spread, 2)} {unit}".strip())
        if "repeats" in details:
            how.append(f"{details['repeats']} repeats")
    if "runtime" in details:
        where.append(RUNTIMES.get(str(details["runtime"]), str(details["runtime"])))
    if "batch" in details:
        where.append(f"batch {details['batch']}")
    if "threads" in details:
        where.append(f"{details['threads']} thread{'' if details['threads'] == 1 else 's'}")
    return [", ".join(phrase) for phrase in (how, where) if phrase]


def change(new: Measurement, old: Measurement) -> str:
    """Return how much more or less of the error ``new`` has, with a sign: ``+0.40 points`` for percentages."""
    difference = new.value - old.value
    if measured(new) == measured(old):  # to the digits that stand beside it
        difference = 0.0
    sign = "+" if difference > 0 else "\u2212" if difference < 0 else "±"
    if new.unit == "%":
        return f"{sign}{abs(difference):.2f} points"
    return f"{sign}{digits(abs(difference), 2)} {new.unit}".strip()


def told(figure: str, name: str, joint: str = " ") -> str:
    """Return a figure and what it is: ``2.1 bits`` of ``bits_per_char`` are ``2.1 bits per character``."""
    what, unit = label(name).lower(), figure.rsplit(" ", 1)[-1]
    return figure + what.removeprefix(unit) if what.startswith(f"{unit} ") else f"{figure}{joint}{what}"


def duration(seconds: float) -> str:
    """Return seconds as ``4.2 s``, ``3 min 20 s`` or ``1 h 05 min``."""
    if seconds < 60:
        return f"{digits(seconds, 2)} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def count(number: int) -> str:
    """Return a whole number with narrow spaces, or times a power of ten from a billion on."""
    if number < 10**9:
        return f"{number:,}".replace(",", "\u202f")
    text = str(number)
    power = str(len(text) - 1).translate(_RAISED)
    return f"{text[0]}.{text[1]}\u00b710{power}"


def option(value: Any) -> str:
    """Return an option of a choice as text."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, (tuple, list)):
        return ", ".join(map(option, value)) or "none"
    return str(value)


def config(options: Mapping[str, Any]) -> str:
    """Return a config as JSON, one choice a line: what ``Config.from_json`` reads."""
    return json.dumps(dict(options), indent=1, default=list)


def run_facts(data: ReportData) -> dict[str, Any]:
    """Return the settings of a run and what each of its phases took, as pairs of texts."""
    return {**data.facts.settings, **{f"time for {phase.name}": duration(phase.seconds) for phase in data.facts.phases}}


def reason(why: str) -> tuple[str, str]:
    """Part a reason from the place in parentheses that ends it: ``("an unknown operation", "blocks.0.attn: foo")``."""
    if why.endswith(")") and " (" in why:
        words, _, place = why[:-1].partition(" (")
        return words, place
    return why, ""
