"""A network that is written to several formats is captured once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from pliant.checks import CaptureError
from pliant.export import export
from pliant.measure.capture import capture, captured_once
from tests.export.nets import Mlp, Tied


@pytest.fixture
def captures(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The networks that torch was asked to capture."""
    seen, own = [], torch.export.export

    def export(net: Any, *args: Any, **kwargs: Any) -> Any:
        seen.append(net)
        return own(net, *args, **kwargs)

    monkeypatch.setattr(torch.export, "export", export)
    return seen


@pytest.mark.slow
def test_files_of_one_capture_are_those_of_their_own(captures: list[Any], tmp_path: Path) -> None:
    net, args = Tied(), (torch.arange(10).view(2, 5),)
    apart = [export(net, tmp_path / f"apart{suffix}", args) for suffix in (".onnx", ".pt2")]
    assert len(captures) == 2
    with captured_once(net):
        together = [export(net, tmp_path / f"net{suffix}", args) for suffix in (".onnx", ".pt2")]
    assert len(captures) == 3
    for one, other in zip(apart, together, strict=True):
        assert other.max_error is not None
        assert other.max_error < 1e-5  # of the file, on three batch sizes
        assert abs(one.bytes - other.bytes) < 100, "but for its name the same file"
        assert one.dynamic_batch == other.dynamic_batch
        assert one.details["inputs"] == other.details["inputs"]


def test_another_network_other_arguments_and_afterwards_are_captured_anew(captures: list[Any]) -> None:
    net, x = Mlp(), torch.randn(3, 8)
    with captured_once(net):
        first = capture(net, (x,), {})
        assert capture(net, (x,), {}) is first
        assert capture(net, (x.clone(),), {}) is not first
        assert not capture(net, (x,), {}, dynamic_batch=False).dynamic
        other = Mlp()
        assert capture(other, (x,), {}).program is not first.program
        with captured_once(other):
            assert capture(other, (x,), {}) is capture(other, (x,), {})
        assert capture(net, (x,), {}) is first
    assert len(captures) == 5
    assert capture(net, (x,), {}) is not first


def test_what_cannot_be_captured_says_so_each_time() -> None:
    class Branches(Mlp):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x) if x.sum() > 0 else x

    net, x = Branches(), torch.randn(3, 8)
    with captured_once(net):
        for _ in range(2):
            with pytest.raises(CaptureError, match="Data-dependent"):
                capture(net, (x,), {})
