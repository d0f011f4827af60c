"""kill -9 at any moment, and the same command again."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from random import Random

import pytest

from pliant.study import Study, search
from tests.study.toy import Toy, objectives

BUDGET = 60


@pytest.mark.slow
def test_killed_at_random_moments_and_resumed(tmp_path: Path, rng: Random) -> None:
    path = tmp_path / "s.db"
    command = [sys.executable, "-m", "tests.study.killed_search", str(path), str(BUDGET), "0.02"]
    kept = 0
    for _ in range(6):
        process = subprocess.Popen(command, stderr=subprocess.PIPE, cwd=Path(__file__).parents[2])
        before = time.monotonic()
        while not path.exists() and process.poll() is None and time.monotonic() - before < 60:
            time.sleep(0.05)  # torch is still being imported
        try:
            process.wait(timeout=2.5 + rng.random() * 1.5 if kept else rng.random())
        except subprocess.TimeoutExpired:
            process.kill()
        _, remarks = process.communicate()
        assert process.returncode in (0, -9), remarks
        try:
            trials = Study.load(path).trials
        except Exception:  # noqa: BLE001 - killed while the file was being made: the next run must make it whole
            assert kept == 0
            continue
        assert len(trials) >= kept, "something measured was lost"
        kept = len(trials)
    final = search(Toy(), objectives(), BUDGET, storage=path)
    whole = search(Toy(), objectives(), BUDGET)
    assert [(t.config, t.values) for t in final.trials] == [(t.config, t.values) for t in whole.trials]
