"""What a run makes of its members when a format cannot hold them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pliant import runs
from pliant.checks import MissingExtraError
from pliant.runs import members

TASK = Path(__file__).parent / "small_task.py"


@pytest.mark.slow
def test_a_format_that_fails_is_a_failed_check_and_not_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = members.export

    def without_onnx(net: Any, path: Path, *args: Any) -> Any:
        if path.suffix == ".onnx":
            raise MissingExtraError("this needs 'onnxruntime', which is not installed: pip install 'pliant[onnx]'")
        return real(net, path, *args)

    monkeypatch.setattr(members, "export", without_onnx)
    data = runs.run(str(TASK), tmp_path / "out", steps=4, budget=2).data
    for member in data.members:
        failed = [check for check in member.checks if not check.passed]
        assert [check.name for check in failed] == ["exported to onnx"]
        assert "pip install 'pliant[onnx]'" in failed[0].detail
        assert {artefact.format for artefact in member.artefacts} == {"safetensors", "pt2"}
        assert [name for name in member.measurements if name.startswith("latency")] == ["latency_torch"]
    assert data.of("recommended")
    assert (tmp_path / "out" / "report.html").is_file()
