"""Timing: what is recorded, what is restored, who comes out faster."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from pliant.checks import CaptureError, MissingExtraError, PliantError, UnknownNameError
from pliant.measure import Latency, Measurement
from pliant.measure.latency import summary
from pliant.measure.onnx_runtime import to_onnx
from pliant.measure.timing import interleave, torch_threads


def mlp(width: int) -> nn.Module:
    return nn.Sequential(nn.Linear(64, width), nn.ReLU(), nn.Linear(width, 64))


@pytest.mark.slow
def test_a_small_member_is_faster_than_its_reference() -> None:
    x = torch.randn(16, 64)
    threads = torch.get_num_threads()
    found = Latency((x,), reference=mlp(4096)).measure(mlp(16))
    assert found.unit == "ms"
    assert found.value > 0
    assert found.spread is not None
    assert found.spread >= 0
    assert found.details["ratio"] < 0.5
    expected = {"runtime": "torch", "threads": 1, "batch": 16, "repeats": 20}
    assert expected.items() <= found.details.items()
    assert found.details["machine"]["torch"] == torch.__version__
    assert torch.get_num_threads() == threads
    assert Measurement.from_json(found.to_json()) == found


def test_no_reference_no_ratio() -> None:
    assert "ratio" not in Latency((torch.randn(1, 64),)).measure(mlp(8)).details


def test_the_reference_against_itself_is_one() -> None:
    net = mlp(8)
    assert Latency((torch.randn(1, 64),), reference=net).measure(net).details["ratio"] == 1


def test_summary_by_hand() -> None:
    own, other = np.array([1.0, 2.0, 3.0, 4.0, 5.0]), np.array([2.0, 2.0, 6.0, 8.0, 5.0])
    found = summary([own, other], {})
    assert found.value == 3000
    assert found.spread == 2000
    assert found.details["ratio"] == 0.5


@pytest.mark.slow
def test_short_calls_are_gathered_and_all_calls_alternate() -> None:
    calls: list[str] = []
    first, second = interleave([lambda: calls.append("a"), lambda: calls.append("b")], 20)
    assert len(first) == len(second) == 20
    assert len(calls) > 20 * 100  # a call of well under a microsecond, a sample of a millisecond
    runs = [name for index, name in enumerate(calls) if index == 0 or calls[index - 1] != name]
    assert len(runs) == 23  # warm-up a, b; then ab ba ab …, where neighbours join


def test_threads_come_back_after_an_error() -> None:
    before = torch.get_num_threads()
    with pytest.raises(ZeroDivisionError), torch_threads(before + 1):
        raise ZeroDivisionError
    assert torch.get_num_threads() == before


def test_bad_settings() -> None:
    with pytest.raises(UnknownNameError, match="onnxruntime"):
        Latency((), runtime="onnx-runtime")  # type: ignore[arg-type]
    with pytest.raises(PliantError, match="at least 20"):
        Latency((), repeats=3)
    with pytest.raises(PliantError, match="tuple of positional"):
        Latency(torch.randn(1, 64)).measure(mlp(8))  # type: ignore[arg-type]


def test_onnx_runtime_absent(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'pliant\[onnx\]'"):
        Latency((torch.randn(1, 64),), runtime="onnxruntime").measure(mlp(8))


@pytest.mark.slow
def test_onnx_runtime_converts_the_reference_once(monkeypatch: pytest.MonkeyPatch) -> None:
    from pliant.measure import latency as room

    converted: list[nn.Module] = []
    original = room.to_onnx

    def spy(net: nn.Module, *args: object, **kwargs: object) -> object:
        converted.append(net)
        return original(net, *args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(room, "to_onnx", spy)
    reference = mlp(4096)
    latency = Latency((torch.randn(16, 64),), runtime="onnxruntime", reference=reference)
    first, second = latency.measure(mlp(16)), latency.measure(mlp(32))
    assert first.details["ratio"] < 0.5
    assert second.details["ratio"] < 0.5
    assert first.details["runtime"] == "onnxruntime"
    assert "onnxruntime" in first.details["machine"]
    assert converted.count(reference) == 1
    assert len(converted) == 3


class FiveDimensions(nn.Module):
    """Attention over windows, as torch's exporter refuses it: one dimension more than it knows."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.scaled_dot_product_attention(x, x, x)


@pytest.mark.slow
def test_what_cannot_be_converted_names_the_operation_and_the_cause() -> None:
    with pytest.raises(CaptureError, match=r"FiveDimensions could not be converted to ONNX: aten\..*: \w+: ") as caught:
        to_onnx(FiveDimensions(), (torch.zeros(2, 2, 2, 4, 4),), {})
    assert "Next steps" not in str(caught.value)
    assert "\x1b" not in str(caught.value)
