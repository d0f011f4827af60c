"""kill -9 at any moment, and the same command again."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path
from random import Random

import pytest

from pliant.study import Study, search
from tests.helpers.nursery import Nursery
from tests.study.toy import Toy, objectives

ROOT = Path(__file__).parents[2]
BUDGET = 60

HALF_WRITTEN = """
import os, signal, sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute("PRAGMA cache_size = 1")
connection.execute("BEGIN IMMEDIATE")
for number in range(2000):
    row = (str(number),)
    connection.execute("INSERT INTO study_user_attributes (study_id, key, value_json) VALUES (1, ?, 'x')", row)
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.slow
@pytest.mark.parametrize("reads_first", [False, True])
def test_killed_in_the_middle_of_a_write(reads_first: bool, tmp_path: Path) -> None:
    """SQLite leaves a journal then, by which the next who opens the file has to undo the half of it."""
    path = tmp_path / "s.db"
    whole = search(Toy(), objectives(), 5, storage=path)
    before = path.read_bytes()
    subprocess.run([sys.executable, "-c", HALF_WRITTEN, str(path)], check=False)
    assert (tmp_path / "s.db-journal").stat().st_size > 0
    assert path.read_bytes() != before
    if reads_first:
        assert len(Study.load(path).trials) == 5
    study = search(Toy(), objectives(), 7, storage=path)
    assert [(t.config, t.values) for t in study.trials[:5]] == [(t.config, t.values) for t in whole.trials]
    assert len(study.trials) == 7


@pytest.mark.slow
def test_killed_at_random_moments_and_resumed(nursery: Nursery, tmp_path: Path, rng: Random) -> None:
    path = tmp_path / "s.db"
    kept = killed = 0
    for _ in range(6):
        code, log = "from tests.study.killed_search import main; main()", tmp_path / "log"
        process = nursery.start(code, str(path), str(BUDGET), "0.02", cwd=ROOT, log=log)
        before = time.monotonic()
        while not path.exists() and not process.wait(0.01) and time.monotonic() - before < 60:
            pass
        if not process.wait(0.4 + 1.2 * rng.random() if kept else rng.random()):
            process.send(signal.SIGKILL)
            killed += 1
            assert process.wait(60)
        assert process.code in (0, -9), process.remarks
        try:
            trials = Study.load(path).trials
        except Exception:  # noqa: BLE001 - killed while the file was being made: the next run must make it whole
            assert kept == 0
            continue
        assert len(trials) >= kept, "something measured was lost"
        kept = len(trials)
    assert killed
    final = search(Toy(), objectives(), BUDGET, storage=path)
    whole = search(Toy(), objectives(), BUDGET)
    assert [(t.config, t.values) for t in final.trials] == [(t.config, t.values) for t in whole.trials]
