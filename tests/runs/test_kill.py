"""kill -9 and Ctrl-C at any moment of a run, and the same command again."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from random import Random

import pytest

from pliant.report import load
from pliant.study import Study

ROOT = Path(__file__).parents[2]
TASK = Path(__file__).parent / "small_task.py"
# One thread, as a sum in another number of threads is another; no bytecode of a task file left half-written.
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}


def start(out: Path, fault: str = "slow") -> subprocess.Popen[str]:
    # A shell's background jobs ignore Ctrl-C, and their children inherit that.
    heed = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"
    code = f"{heed}; from pliant.cli.main import app; app()"
    command = [sys.executable, "-c", code, "run", str(TASK), "--out", str(out), "--steps", "60", "--budget", "6"]
    environment = {**ENVIRONMENT, "PLIANT_TEST_FAULT": fault}
    return subprocess.Popen(
        command, cwd=ROOT, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


def front(out: Path) -> list[tuple[float, float]]:
    return [(trial.values["error"], trial.values["macs"]) for trial in Study.load(out / "study.db").front]


@pytest.mark.slow
def test_killed_at_random_moments_and_resumed(tmp_path: Path, rng: Random) -> None:
    whole = start(tmp_path / "whole", fault="")
    _, remarks = whole.communicate(timeout=240)
    assert whole.returncode == 0, remarks
    out, killed = tmp_path / "killed", 0
    for _ in range(4):
        process = start(out)
        try:
            process.communicate(timeout=4 + 6 * rng.random())
        except subprocess.TimeoutExpired:
            process.kill()
            killed += 1
            process.communicate()
    assert killed
    last = start(out, fault="")
    _, remarks = last.communicate(timeout=240)
    assert last.returncode == 0, remarks
    assert front(out) == front(tmp_path / "whole")
    left, right = load(out / "report.json"), load(tmp_path / "whole" / "report.json")
    assert [(row.id, row.config) for row in left.members] == [(row.id, row.config) for row in right.members]


@pytest.mark.slow
def test_ctrl_c_stops_and_says_how_to_go_on(tmp_path: Path) -> None:
    out = tmp_path / "r"
    process = start(out)
    before = time.monotonic()
    while not list(out.glob("checkpoints/*")) and process.poll() is None and time.monotonic() - before < 60:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, remarks = process.communicate(timeout=60)
    assert process.returncode == 130, remarks
    assert "stopped; everything finished so far is kept" in remarks
    assert f"run {TASK} --out {out} --steps 60 --budget 6" in remarks
    assert "Traceback" not in remarks
    assert list(out.glob("checkpoints/checkpoint-*.safetensors"))
    again = start(out, fault="")
    _, remarks = again.communicate(timeout=240)
    assert again.returncode == 0, remarks
