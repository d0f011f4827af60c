"""Measurements, metrics and the machine."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from pliant.checks import PliantError, WrongShapeError
from pliant.measure import Latency, Macs, Measurement, Metric, Params, machine


def test_round_trip_through_json() -> None:
    for found in (Measurement(1.5, "ms", 0.1, {"threads": 1, "machine": {"cpu": "x"}}), Measurement(3.0, "")):
        assert Measurement.from_json(json.loads(json.dumps(found.to_json()))) == found


def test_details_must_be_json() -> None:
    with pytest.raises(TypeError):
        Measurement(1.0, "", details={"x": object()}).to_json()


def test_reads_well() -> None:
    assert str(Measurement(1.23456, "ms", 0.0123)) == "1.235 ± 0.0123 ms"
    assert str(Measurement(2.0, "")) == "2"


def test_metric_takes_tensors_of_one_element() -> None:
    error = Metric("error", lambda net: torch.tensor([net.in_features]), unit="%")
    assert error.measure(nn.Linear(3, 1)).value == 3
    assert error.direction == "min"


def test_metric_errors() -> None:
    with pytest.raises(PliantError, match="one number"):
        Metric("error", lambda net: {"a": 1}).measure(nn.Identity())
    with pytest.raises(PliantError, match="'min' or 'max'"):
        Metric("error", float, direction="down")  # type: ignore[arg-type]


def test_machine_says_what_and_is_json() -> None:
    facts = machine()
    assert {"cpu", "cores", "os", "python", "torch"} <= facts.keys()
    assert json.loads(json.dumps(facts)) == facts
    facts["cpu"] = "changed"
    assert machine()["cpu"] != "changed"


def test_metric_takes_arrays_of_one_element_and_no_text() -> None:
    net = nn.Linear(2, 2)

    def measured(value: Any) -> float:
        return Metric("error", lambda member: value).measure(net).value

    for value in (np.array([0.5]), np.array(0.5), np.float32(0.5), torch.tensor([[0.5]])):
        assert measured(value) == 0.5
    for wrong, said in (("0.5", "got str"), (np.zeros(2), r"got ndarray of shape \(2,\)"), (10**400, "got int")):
        with pytest.raises(WrongShapeError, match=said):
            measured(wrong)


def test_settings_are_what_a_value_depends_on() -> None:
    inputs = torch.zeros(4, 3)
    assert Macs((inputs,), {"scale": inputs[0]}).settings() == {"example_args": [[4, 3]], "example_kwargs": [[3]]}
    timed = Latency((inputs,), threads=2)
    assert timed.settings() == {"example_args": [[4, 3]], "runtime": "torch", "threads": 2}
    assert Latency((inputs,), threads=2, repeats=50).settings() == timed.settings()
    assert Metric("error", id, "max", "%").settings() == Params().settings() == {}
