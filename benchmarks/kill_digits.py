"""Kill a real run ten times: does its final front equal that of a run that was left alone?

``python -m benchmarks kill_digits [--task digits] [--kills 10] [--seed 0] [--keep FOLDER]``: one run of ``pliant run
digits --quick`` is left alone. Another is started, killed with ``kill -9`` at a random moment, and started again by the
same command, until it was killed ten times; then it may end (should it end before, it is begun anew). Errors and MACs
are deterministic, so both studies must hold the same trials and front, and both reports the same members. Takes about
four times as long as a run.
"""

from __future__ import annotations

import argparse
import itertools
import json
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pliant.report import load
from pliant.study import Study

from ._figures import Figure

BY_DEFAULT = False


def start(task: str, out: Path) -> subprocess.Popen[bytes]:
    """Start the run, or go on with it, in a process of its own."""
    code = "from pliant.cli.main import app; app()"
    command = [sys.executable, "-c", code, "run", task, "--out", str(out), "--quick"]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


def finish(process: subprocess.Popen[bytes]) -> None:
    """Wait for a run to end; show what it said if it failed."""
    _, remarks = process.communicate()
    if process.returncode != 0:
        raise SystemExit(f"the run failed with exit code {process.returncode}:\n{remarks.decode()}")


def stage(out: Path) -> str:
    """Say how far a run is, from its files alone."""
    if not (out / "run.json").is_file():
        return "before anything was written"
    done = json.loads((out / "run.json").read_text(encoding="utf-8"))["stages"]
    if "dry run" not in done:
        return "in the dry run"
    if "training" not in done:
        steps = sorted(path.stem.rpartition("-")[2] for path in (out / "checkpoints").glob("checkpoint-*"))
        return f"in training, {int(steps[-1]) if steps else 0} steps kept"
    if "search" not in done:
        try:
            return f"in the search, {len(Study.load(out / 'study.db').trials)} members kept"
        except Exception as error:  # noqa: BLE001  (the file may be half made: the next start must cope with it)
            return f"in the search, its file being made ({type(error).__name__})"
    return f"among the members, {len(list(out.glob('members/*/member.json')))} made"


def outcome(out: Path) -> dict[str, Any]:
    """Return what must not depend on kills."""
    study, data = Study.load(out / "study.db"), load(out / "report.json")
    return {
        "front": [(trial.values["error"], trial.values["macs"]) for trial in study.front],
        "trials": [(trial.config.to_json(), trial.values) for trial in study.trials],
        "members": [(row.id, dict(row.config)) for row in data.members],
    }


def killed(task: str, out: Path, kills: int, whole: float, rng: random.Random) -> None:
    """Start a run and kill it ``kills`` times; what is left in ``out`` may go on."""
    done = 0
    while done < kills:
        process = start(task, out)
        try:
            # A start takes some seconds, so short lives keep a run in one stage and long ones end it.
            process.communicate(timeout=rng.uniform(2, 10 + whole / 3))
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            done += 1
            print(f"kill {done}: {stage(out)}")
            continue
        if process.returncode != 0:
            raise SystemExit(f"a start after {done} kills failed with exit code {process.returncode}")
        print("it ended before its kill; it is begun anew")
        shutil.rmtree(out)


def run(arguments: Sequence[str]) -> list[Figure]:
    """Make both runs and count what differs."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks kill_digits", description=__doc__)
    parser.add_argument("--task", default="digits")
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--keep", type=Path, help="leave both runs in this folder")
    asked = parser.parse_args(arguments)
    place = asked.keep or Path(tempfile.mkdtemp(prefix="pliant-kill-"))
    before = time.perf_counter()
    finish(start(asked.task, place / "alone"))
    whole = time.perf_counter() - before
    print(f"left alone it took {whole:.0f} s")
    killed(asked.task, place / "killed", asked.kills, whole, random.Random(asked.seed))
    finish(start(asked.task, place / "killed"))
    left, right = outcome(place / "alone"), outcome(place / "killed")
    if not asked.keep:
        shutil.rmtree(place)
    same = "equals" if left["front"] == right["front"] else "differs from"
    print(f"the front of the run that was killed {same} that of the run left alone")
    return [
        Figure(f"{name} that differ, of {len(left[name])}", differing(left[name], right[name]), "", limit=0)
        for name in left
    ]


def differing(left: Sequence[Any], right: Sequence[Any]) -> int:
    """Count the places where two lists differ."""
    return sum(a != b for a, b in itertools.zip_longest(left, right))
