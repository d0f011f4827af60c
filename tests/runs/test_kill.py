"""kill -9 and Ctrl-C at any moment of a run, and the same command again."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest

from pliant.report import load
from pliant.study import Study
from tests.helpers.nursery import Child, Nursery

ROOT = Path(__file__).parents[2]
TASK = Path(__file__).parent / "small_task.py"
# One thread, as a sum in another number of threads is another; no bytecode of a task file left half-written.
ENVIRONMENT = {"OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
# What a run imports on its way; the moments of a kill are then those of the run.
MODULES = ["pliant.cli.main", "pliant.cli.running", "pliant.runs.pipeline", "pliant.runs.dry", "torch.export._trace"]
MODULES += ["torch._dynamo", "sklearn.datasets", "optuna.storages"]


@pytest.fixture(scope="module")
def nursery() -> Iterator[Nursery]:
    with Nursery(*MODULES, cwd=ROOT, env=ENVIRONMENT) as made:
        yield made


def start(nursery: Nursery, out: Path, fault: str = "slow") -> Child:
    # A shell's background jobs ignore Ctrl-C, and their children inherit that.
    code = (
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "from pliant.runs import members; members.FORMATS = members.FORMATS[:2]\n"  # ONNX takes most of a run's time
        "from pliant.cli.main import app; app()"
    )
    command = ["run", str(TASK), "--out", str(out), "--steps", "60", "--budget", "6"]
    return nursery.start(code, *command, cwd=ROOT, log=out.with_suffix(".log"), env={"PLIANT_TEST_FAULT": fault})


def front(out: Path) -> list[tuple[float, float]]:
    return [(trial.values["error"], trial.values["macs"]) for trial in Study.load(out / "study.db").front]


@pytest.mark.slow
def test_killed_at_random_moments_and_resumed(nursery: Nursery, tmp_path: Path, rng: Random) -> None:
    whole = start(nursery, tmp_path / "whole", fault="")
    assert whole.wait(240)
    assert whole.code == 0, whole.remarks
    out, killed = tmp_path / "killed", 0
    for _ in range(4):
        process = start(nursery, out)
        if not process.wait(0.5 + 6 * rng.random()):
            process.send(signal.SIGKILL)
            killed += 1
            assert process.wait(60)
    assert killed
    last = start(nursery, out, fault="")
    assert last.wait(240)
    assert last.code == 0, last.remarks
    assert front(out) == front(tmp_path / "whole")
    left, right = load(out / "report.json"), load(tmp_path / "whole" / "report.json")
    assert [(row.id, row.config) for row in left.members] == [(row.id, row.config) for row in right.members]


@pytest.mark.slow
def test_ctrl_c_stops_and_says_how_to_go_on(nursery: Nursery, tmp_path: Path) -> None:
    out = tmp_path / "r"
    process = start(nursery, out)
    before, whole = time.monotonic(), "checkpoints/checkpoint-*.safetensors"  # under other names while they are written
    while not list(out.glob(whole)) and not process.wait(0.05) and time.monotonic() - before < 60:
        pass
    process.send(signal.SIGINT)
    assert process.wait(60)
    assert process.code == 130, process.remarks
    assert "stopped; everything finished so far is kept" in process.remarks
    assert f"run {TASK} --out {out} --steps 60 --budget 6" in process.remarks
    assert "Traceback" not in process.remarks
    assert list(out.glob(whole))
    again = start(nursery, out, fault="")
    assert again.wait(240)
    assert again.code == 0, again.remarks
