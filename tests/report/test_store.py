"""The stored trace: a JSON round trip, and clear errors for what is damaged or can't be shown."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from pliant.checks import CorruptFileError, PliantError, WrongShapeError
from pliant.measure import Measurement
from pliant.report import load, save
from pliant.report.store import from_json, to_json
from tests.report.sample import changed, sample


def test_round_trip(tmp_path: Path) -> None:
    data = sample()
    again = load(save(data, tmp_path / "deep" / "report.json"))
    assert again.members == data.members
    assert again.findings.points == data.findings.points
    assert again.facts.settings == dict(data.facts.settings) | {"constraints": ["macs >= 4.2e5"]}  # JSON has no tuples
    assert changed(again, settings={}) == changed(data, settings={})
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["report.json"]


def test_every_measured_value_keeps_its_circumstances() -> None:
    record = json.loads(to_json(sample()))
    latency = record["members"][1]["measurements"]["latency"]
    assert set(latency) == {"value", "unit", "spread", "details"}
    assert latency["details"]["runtime"] == "onnxruntime"
    assert latency["details"]["repeats"] == 30


def test_numpy_numbers_are_written_as_numbers() -> None:
    data = sample()
    settings = {"steps": np.int64(3), "folder": Path("runs")}
    assert from_json(to_json(changed(data, settings=settings))).facts.settings == {"steps": 3, "folder": "runs"}


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "3", "{}", '{"format": 1}', '{"format": 1, "task": "x", "error": "e", "members": 3}'],
)
def test_damaged_files(text: str, tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    path.write_text(text)
    with pytest.raises(CorruptFileError, match=r"report\.json"):
        load(path)


def test_unknown_fields_wrong_types_and_other_formats() -> None:
    record = json.loads(to_json(sample()))
    with pytest.raises(CorruptFileError, match="ReportData has no field surprise"):
        from_json(json.dumps(record | {"surprise": 1}))
    with pytest.raises(CorruptFileError, match="expected str, got 3"):
        from_json(json.dumps(record | {"task": 3}))
    with pytest.raises(CorruptFileError, match="format 99"):
        from_json(json.dumps(record | {"format": 99}))


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(CorruptFileError, match="has not finished yet"):
        load(tmp_path / "report.json")


def test_what_cannot_be_shown() -> None:
    data = sample()
    full, first = data.members[0], data.members[1]
    with pytest.raises(WrongShapeError, match="exactly one member of role 'reference', got 0"):
        to_json(changed(data, members=(first,)))
    with pytest.raises(WrongShapeError, match="m17 came twice"):
        to_json(changed(data, members=(full, first, first)))
    with pytest.raises(WrongShapeError, match="no measurement 'error'"):
        to_json(changed(data, members=(full, dataclasses.replace(first, measurements={}))))
    bad = {"error": Measurement(float("nan"), "%")}
    with pytest.raises(WrongShapeError, match="only finite numbers"):
        to_json(changed(data, members=(full, dataclasses.replace(first, measurements=bad))))


def test_a_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save(sample(), tmp_path / "report.json")
    before = path.read_text()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(PliantError, match="no space left"):
        save(changed(sample(), task="other"), path)
    assert path.read_text() == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["report.json"]
