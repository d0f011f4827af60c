"""A whole run of a network that takes keyword arguments."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from pliant import runs
from pliant.cli.main import app
from pliant.measure.onnx_runtime import open_session
from pliant.report import load
from pliant.runs.build import build_family, timing_args
from pliant.tasks import load_task

TASK = Path(__file__).parent / "keyword_task.py"


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "whole"
    runs.run(str(TASK), out, steps=12, budget=3)
    return out


def test_members_are_exported_checked_and_timed(finished: Path) -> None:
    data = load(finished / "report.json")
    for row in data.members:
        assert all(check.passed for check in row.proof.checks), row.proof.checks
        assert {artefact.format for artefact in row.artefacts} == {"safetensors", "pt2", "onnx"}
        assert {"latency_onnxruntime", "latency_torch"} <= row.measurements.keys()
        assert row.measurements["latency_onnxruntime"].details["batch"] == 16


def test_the_exported_file_gives_the_members_outputs(finished: Path, tmp_path: Path) -> None:
    net, artefact = runs.extract(finished, "full"), runs.export(finished, "full", tmp_path / "net.onnx")
    _, given = timing_args(load_task(TASK), 3)
    session = open_session(str(artefact.path), 1)
    assert {entry.name for entry in session.get_inputs()} == {"images", "mask"}
    found = session.run(None, {name: value.numpy() for name, value in given.items()})
    with torch.no_grad():
        wanted = net(**given)
    torch.testing.assert_close(torch.from_numpy(found[0]), wanted["logits"], rtol=1e-4, atol=1e-5)


def test_members_of_such_a_family_take_keywords() -> None:
    task = load_task(TASK)
    family = build_family(task, ("width", "depth"), [], 0)
    args, kwargs = task.example()
    assert args == ()
    assert family.member(family.space.smallest())(**kwargs)["logits"].shape == (2, 10)


def test_the_command_analyses_it() -> None:
    result = CliRunner().invoke(app, ["analyze", str(TASK)])
    assert result.exit_code == 0, result.output
    assert "trunk.blocks" in result.output
