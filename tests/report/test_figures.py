"""Numbers as people read them."""

from __future__ import annotations

import pytest

from pliant.measure import Measurement
from pliant.report import figures


@pytest.mark.parametrize(
    ("value", "unit", "shown"),
    [
        (1.234e6, "MACs", "1.23 M"),
        (987, "parameters", "987"),
        (0, "MACs", "0"),
        (45_600, "bytes", "45.6 kB"),
        (12, "bytes", "12 B"),
        (3.3389, "%", "3.34 %"),
        (0.41234, "ms", "0.412 ms"),
        (0.04567, "ms", "45.7 µs"),
        (1234.5, "ms", "1\u202f234 ms"),
        (2.14776, "bits", "2.15 bits"),
        (3.0e-7, "", "3.00e-07"),
        (-0.5, "", "-0.500"),
    ],
)
def test_quantity(value: float, unit: str, shown: str) -> None:
    assert figures.quantity(value, unit) == shown


@pytest.mark.parametrize(
    ("seconds", "shown"), [(0.0, "0 s"), (4.21, "4.2 s"), (59.4, "59 s"), (200, "3 min 20 s"), (3900, "1 h 05 min")]
)
def test_duration(seconds: float, shown: str) -> None:
    assert figures.duration(seconds) == shown


def test_count() -> None:
    assert figures.count(1234567) == "1\u202f234\u202f567"
    assert figures.count(44_089_920_000) == "4.4\u00b710\u00b9\u2070"


def test_change_has_a_sign_and_says_points_for_percentages() -> None:
    assert figures.change(Measurement(2.63, "%"), Measurement(2.23, "%")) == "+0.40 points"
    assert figures.change(Measurement(2.0, "%"), Measurement(2.5, "%")) == "\u22120.50 points"
    assert figures.change(Measurement(2.0, "%"), Measurement(2.0, "%")) == "±0.00 points"
    assert figures.change(Measurement(2.21, "bits"), Measurement(2.12, "bits")) == "+0.090 bits"


def test_a_unit_is_not_said_twice() -> None:
    assert figures.told("2.1 bits", "bits_per_char") == "2.1 bits per character"
    assert figures.told("+0.40 points", "error", " of ") == "+0.40 points of error"
    assert figures.told("0.31", "test_loss") == "0.31 test loss"


def test_circumstances_are_in_the_units_of_the_value() -> None:
    details = {"runtime": "onnxruntime", "batch": 64, "threads": 1, "repeats": 30}
    said = figures.circumstances(Measurement(3.31, "ms", 0.0993, details))
    assert said == ["spread 0.099 ms, 30 repeats", "ONNX Runtime, batch 64, 1 thread"]
    assert figures.circumstances(Measurement(0.05, "ms", 0.001))[0] == "spread 1.0 µs"
    assert figures.circumstances(Measurement(5.0, "MACs")) == []


def test_labels() -> None:
    assert figures.label("latency_torch") == "Latency, PyTorch"
    assert figures.label("test_error") == "Test error"
    assert figures.label("macs") == "MACs"


def test_a_reason_and_its_place() -> None:
    assert figures.reason("taken by place (blocks.0: unbind.int)") == ("taken by place", "blocks.0: unbind.int")
    assert figures.reason("an output of the network") == ("an output of the network", "")
