"""The table of operations is read once, is the same as torch's, and torch gets its own way of reading back."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from pliant.measure import onnx_operations
from pliant.measure.onnx_runtime import to_onnx


def registry() -> Any:
    return pytest.importorskip("torch.onnx._internal.exporter._registration").ONNXRegistry


@pytest.mark.slow
def test_a_second_conversion_reads_no_table(monkeypatch: pytest.MonkeyPatch) -> None:
    kind = registry()
    own, reads = kind.__dict__["from_torchlib"], []

    def counted(cls: Any, *args: Any, **kwargs: Any) -> Any:
        reads.append(args)
        return own.__get__(None, cls)(*args, **kwargs)

    replaced = classmethod(counted)
    monkeypatch.setattr(kind, "from_torchlib", replaced)
    onnx_operations._registry.cache_clear()
    onnx_operations._read.cache_clear()
    nets = [nn.Linear(3, 2), nn.Sequential(nn.Linear(3, 2), nn.ReLU())]
    first, second = (to_onnx(net.eval(), (torch.zeros(2, 3),), {}) for net in nets)
    assert len(reads) == 1
    assert first.model != second.model
    assert kind.__dict__["from_torchlib"] is replaced, "torch has its own way of reading back"
    onnx_operations._registry.cache_clear()
    onnx_operations._read.cache_clear()


@pytest.mark.slow
def test_what_a_conversion_adds_is_not_there_in_the_next() -> None:
    kind = registry()
    with onnx_operations.operations_read_once():
        one, other = kind.from_torchlib(), kind.from_torchlib()
    assert one.functions == other.functions
    name = next(iter(one.functions))
    one.functions[name].append(None)
    one.functions["another"] = []
    assert None not in other.functions[name]
    assert "another" not in other.functions


def test_where_torch_has_no_such_table_nothing_happens(monkeypatch: pytest.MonkeyPatch) -> None:
    kind = registry()
    own = kind.__dict__["from_torchlib"]
    with onnx_operations.operations_read_once():
        assert kind.__dict__["from_torchlib"] is not own
    monkeypatch.setattr(onnx_operations, "_registry", lambda: None)
    with onnx_operations.operations_read_once():
        assert kind.__dict__["from_torchlib"] is own
