"""What a report says in one sentence, and what its plot shows: worked out from the stored numbers alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .data import MemberRow, ReportData
from .figures import change, digits, label, measured, quantity, told

PREFERRED = ("latency", "macs", "params", "bytes", "memory")


@dataclass(frozen=True)
class Headline:
    """One sentence, the member that it is about (``None`` without one) and up to four figures with their captions."""

    sentence: str
    member: MemberRow | None
    figures: tuple[tuple[str, str, str], ...] = ()


def speedup(member: MemberRow, reference: MemberRow) -> float | None:
    """Return how many times faster ``member`` is, from the paired ratio where there is one, else from the medians."""
    name = next((name for name in member.measurements if name == "latency" or name.startswith("latency_")), None)
    if name is None:
        return None
    own = member.measurements[name]
    ratio = own.details.get("ratio")
    if ratio is None:
        if name not in reference.measurements or own.value <= 0:
            return None
        ratio = own.value / reference.measurements[name].value
    return 1.0 / float(ratio) if ratio else None


def headline(data: ReportData) -> Headline:
    """Say what came out: the fastest recommended member within the tolerance, else the most accurate one."""
    reference = data.reference
    smaller = data.of("recommended")
    if not smaller:
        return Headline("No member was worth recommending over the full network", None)

    def rise(member: MemberRow) -> float:
        return member.measurements[data.error].value - reference.measurements[data.error].value

    within = [member for member in smaller if rise(member) <= data.tolerance]
    if within:
        best = max(within, key=lambda member: speedup(member, reference) or _saving(member, reference, "macs") or 0.0)
    else:
        best = min(smaller, key=rise)
    return Headline(_sentence(best, data), best, tuple(_figures(best, data)))


def _sentence(member: MemberRow, data: ReportData) -> str:
    new, old = member.measurements[data.error], data.reference.measurements[data.error]
    times, fewer = speedup(member, data.reference), _saving(member, data.reference, "macs")
    if times is not None:
        gain = f"{digits(times, 2)}× faster" if times >= 1 else f"{digits(1 / times, 2)}× slower"
    elif fewer is not None:
        gain = f"{digits(fewer, 2)}× smaller in MACs"
    else:
        gain = "kept"
    if measured(new) == measured(old):
        return f"A member {gain} at the same {label(data.error).lower()}"
    return f"A member {gain} at {told(change(new, old), data.error, ' of ')}"


def _figures(member: MemberRow, data: ReportData) -> list[tuple[str, str, str]]:
    """Return (value, caption, small print) of the member's speed, error, MACs and size against the reference."""
    reference, found = data.reference, []
    times = speedup(member, reference)
    latency = next((name for name in member.measurements if name.startswith("latency")), None)
    if times is not None and latency is not None:
        found.append((f"{digits(times, 2)}×", "speed", _from_to(member, reference, latency)))
    new, old = member.measurements[data.error], reference.measurements[data.error]
    found.append((change(new, old), label(data.error).lower(), _from_to(member, reference, data.error)))
    for name, caption in (("macs", "fewer MACs"), ("params", "fewer parameters"), ("bytes", "smaller file")):
        saving = _saving(member, reference, name)
        if saving is not None and len(found) < 4:
            found.append((f"{digits(saving, 2)}×", caption, _from_to(member, reference, name)))
    return found


def _from_to(member: MemberRow, reference: MemberRow, name: str) -> str:
    if name not in reference.measurements:
        return measured(member.measurements[name])
    return f"{measured(reference.measurements[name])} \u2192 {measured(member.measurements[name])}"


def _saving(member: MemberRow, reference: MemberRow, name: str) -> float | None:
    if name not in member.measurements or name not in reference.measurements or not member.measurements[name].value:
        return None
    return reference.measurements[name].value / member.measurements[name].value


def columns(data: ReportData) -> list[str]:
    """Return the names of the measurements, as the table orders them: the error, figures like it, then the costs."""
    names = list(dict.fromkeys(name for member in data.members for name in member.measurements))
    costs = sorted((name for name in names if _rank(name) < len(PREFERRED)), key=_rank)
    return [data.error, *(name for name in names if name != data.error and name not in costs), *costs]


def _rank(name: str) -> int:
    return next(
        (i for i, known in enumerate(PREFERRED) if name == known or name.startswith(f"{known}_")), len(PREFERRED)
    )


def plotted_error(data: ReportData) -> str:
    """Return the error that the plot shows: the search's own (on the validation split) where every member has it.

    The table's error is on the test split; the two must not be drawn as if they were one.
    """
    name = f"{data.error}_validation"
    return name if data.members and all(name in member.measurements for member in data.members) else data.error


def chart(data: ReportData) -> dict[str, Any]:
    """Return what the plot needs: its items, the costs to choose from, and the front over each of them.

    An item is a member or a point: ``{"id", "role", "values", "shown", "summary"}``, ``shown`` being the values as
    text. A front lists the ids of the feasible items that no other beats in both the cost and the error.
    """
    units = {name: m.unit for member in reversed(data.members) for name, m in member.measurements.items()}
    plotted = plotted_error(data)
    members = {member.id for member in data.members}
    items = [
        {"id": point.id, "role": "point" if point.feasible else "infeasible", "summary": point.summary}
        | _values({plotted if name == data.error else name: v for name, v in point.values.items()}, units)
        for point in data.findings.points
        if point.id not in members
    ]
    for member in data.members:
        values = {name: measurement.value for name, measurement in member.measurements.items()}
        items.append({"id": member.id, "role": member.role, "summary": shape(member)} | _values(values, units))
    shown = [name for name in columns(data) if _rank(name) < len(PREFERRED)]
    costs = [name for name in shown if sum(name in item["values"] for item in items) >= 2]
    searched = {name for point in data.findings.points for name in point.values}
    return {
        "first": next((i for i, name in enumerate(costs) if name in searched), 0),
        "error": {"name": plotted, "label": label(plotted), "unit": units[plotted]},
        "costs": [{"name": name, "label": label(name), "unit": units[name]} for name in costs],
        "items": items,
        "fronts": {name: front(items, name, plotted) for name in costs},
    }


def shape(member: MemberRow) -> str:
    """Say in a line what a member kept: its blocks, and of each kind of axis the share kept in the blocks left.

    For example ``"3 of 5 blocks, stream 50 %, heads 50 %, hidden 25 %"``; kinds that kept everything are not named.
    """
    blocks = [item for item in member.kept if item.kind == "block"]
    out = {item.group for item in blocks if item.kept == 0}
    said = [f"{len(blocks) - len(out)} of {len(blocks)} blocks"] if out else []
    left = [item for item in member.kept if item.kind != "block" and item.group not in out]
    for kind in dict.fromkeys(item.kind for item in left):
        some = [item for item in left if item.kind == kind]
        share = sum(item.kept for item in some) / max(1, sum(item.full for item in some))
        if share < 1:
            said.append(f"{kind} {100 * share:.0f} %")
    return ", ".join(said) or ("everything" if member.kept else "")


def _values(values: Mapping[str, float], units: Mapping[str, str]) -> dict[str, Any]:
    shown = {name: quantity(value, units.get(name, "")) for name, value in values.items()}
    return {"values": dict(values), "shown": shown}


def front(items: Sequence[Mapping[str, Any]], cost: str, error: str) -> list[str]:
    """Return the ids of the items that no other beats in both ``cost`` and ``error``, cheapest first."""
    able = [i for i in items if cost in i["values"] and error in i["values"] and i["role"] != "infeasible"]
    best, ids = float("inf"), []
    for item in sorted(able, key=lambda item: (item["values"][cost], item["values"][error])):
        if item["values"][error] < best:
            best = item["values"][error]
            ids.append(item["id"])
    return ids
