"""The headline, the front and the columns, against a direct calculation from the stored numbers."""

from __future__ import annotations

import dataclasses
import random
from typing import Any

import pytest

from pliant.measure import Measurement
from pliant.report import Kept, MemberRow, ReportData
from pliant.report.data import Role
from pliant.report.summary import chart, columns, front, headline, shape, speedup
from tests.report.sample import changed, sample


def row(name: str, role: Role, error: float, macs: float, latency: Measurement | None = None) -> MemberRow:
    measurements = {"error": Measurement(error, "%"), "macs": Measurement(macs, "MACs")}
    return MemberRow(name, role, {}, measurements | ({"latency": latency} if latency else {}))


def test_the_headline_is_the_fastest_within_the_tolerance() -> None:
    data = sample()
    assert data.members[3].id == "m63"
    assert headline(data).sentence == "A member 4.3× faster at +1.39 points of error"
    tighter = headline(changed(data, tolerance=0.5))
    assert tighter.sentence == "A member 2.4× faster at +0.40 points of error"
    assert tighter.member == data.members[2]


def test_beyond_the_tolerance_the_most_accurate_is_named() -> None:
    data = ReportData(
        "t", "error", (row("full", "reference", 2, 100), row("a", "recommended", 9, 50), row("b", "recommended", 7, 80))
    )
    found = headline(data)
    assert found.member is not None
    assert found.member.id == "b"
    assert found.sentence == "A member 1.2× smaller in MACs at +5.00 points of error"  # nothing was timed


def test_what_looks_the_same_beside_each_other_is_called_so() -> None:
    """The difference of two large numbers, to its own digits, would say more than they do."""
    rows = [row("full", "reference", 0, 100), row("a", "recommended", 0, 50)]
    for value, member in zip((2.37e11, 2.37e11 - 16384), rows, strict=True):
        member.measurements["error"] = Measurement(value, "")  # type: ignore[index]
    found = headline(ReportData("t", "error", tuple(rows)))
    assert found.sentence == "A member 2.0× smaller in MACs at the same error"
    assert found.figures[0][0] == "±0"


def test_without_a_recommended_member() -> None:
    data = ReportData("t", "error", (row("full", "reference", 2, 100), row("a", "dropped", 9, 50)))
    assert headline(data).member is None
    assert "No member was worth recommending" in headline(data).sentence


def test_a_slower_member_is_called_slower() -> None:
    slow = row("a", "recommended", 2, 50, Measurement(3.0, "ms", details={"ratio": 1.5}))
    data = ReportData("t", "error", (row("full", "reference", 2, 100), slow))
    assert "1.5× slower" in headline(data).sentence


def test_speed_comes_from_the_paired_ratio_first() -> None:
    full = row("full", "reference", 2, 100, Measurement(10.0, "ms"))
    assert speedup(row("a", "front", 2, 1, Measurement(2.0, "ms", details={"ratio": 0.25})), full) == pytest.approx(4.0)
    assert speedup(row("a", "front", 2, 1, Measurement(2.0, "ms")), full) == pytest.approx(5.0)
    assert speedup(row("a", "front", 2, 1), full) is None


def test_front_against_brute_force(rng: random.Random) -> None:
    items: list[dict[str, Any]] = [
        {
            "id": str(i),
            "role": rng.choice(["point", "infeasible"]),
            "values": {"c": rng.randint(0, 30), "e": rng.randint(0, 30)},
        }
        for i in range(120)
    ]
    able = [item for item in items if item["role"] == "point"]

    def beaten(a: dict[str, int]) -> bool:
        values = [item["values"] for item in able]
        return any(b["c"] <= a["c"] and b["e"] <= a["e"] and (b["c"], b["e"]) != (a["c"], a["e"]) for b in values)

    expected = {(i["values"]["c"], i["values"]["e"]) for i in able if not beaten(i["values"])}
    by_id = {item["id"]: item["values"] for item in items}
    found = [(by_id[i]["c"], by_id[i]["e"]) for i in front(items, "c", "e")]
    assert set(found) == expected
    assert found == sorted(found)
    assert len(found) == len(expected)


def test_columns_put_the_error_first_and_costs_last() -> None:
    assert columns(sample()) == ["error", "test_error", "latency", "macs", "params", "bytes"]


def test_chart_begins_with_a_cost_that_the_search_measured() -> None:
    found = chart(sample())
    assert [cost["name"] for cost in found["costs"]] == ["latency", "macs", "params", "bytes"]
    assert found["first"] == 1
    assert len(found["items"]) == 95
    alone = chart(changed(sample(), points=()))
    assert alone["first"] == 0
    one = changed(sample(), members=sample().members[:1], points=())
    assert chart(one)["costs"] == []  # one mark is no plot


def test_a_point_that_is_a_member_is_drawn_once() -> None:
    data = sample()
    twice = changed(data, points=(dataclasses.replace(data.findings.points[0], id="m17"),))
    assert [item["id"] for item in chart(twice)["items"]].count("m17") == 1


def test_shape_in_a_line() -> None:
    data = sample()
    assert shape(data.members[0]) == "everything"
    assert shape(data.members[3]) == "3 of 5 blocks, stream 50 %, heads 50 %, hidden 25 %"
    only = MemberRow("a", "front", {}, {}, (Kept("x", "hidden", 1, 4), Kept("y", "hidden", 3, 4)))
    assert shape(only) == "hidden 50 %"
