"""Kill searches, workers and the database server: is anything lost, or measured twice, and does the study end?

``python -m benchmarks kill_search [--kills 20] [--seed 0] [--only file|workers|server]``, on a family without a
network whose measurements take a tenth of a second, so that the study itself is what is tested:

- *file*: a search into a SQLite file is killed with ``kill -9`` at random moments and started again, 20 times. The
  trials must be those of a search that was left alone, one by one.
- *workers*: of a search with two worker processes, one of them is killed at random moments, 20 times.
- *server*: a search on a PostgreSQL server runs steadily while others join it and are killed at random moments, 20
  times; meanwhile the server itself is killed and started again three times.

Takes about ten minutes on two cores.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from pliant.checks import PliantError
from pliant.study import Study, search
from pliant.techniques.search.nsga2 import Nsga2
from tests.study.postgres import Server
from tests.study.toy import Toy, objectives

from ._figures import Figure

BY_DEFAULT = False
RESTARTS = 3


def start(storage: str, budget: int, seconds: float, workers: int = 1) -> subprocess.Popen[bytes]:
    """Start a search in a process of its own, or go on with it."""
    command = [sys.executable, "-m", "tests.study.killed_search", storage, str(budget), str(seconds), str(workers)]
    return subprocess.Popen(command, stderr=subprocess.PIPE)


def finish(process: subprocess.Popen[bytes]) -> None:
    """Wait for a search to end; stop where it failed."""
    _, remarks = process.communicate(timeout=600)
    if process.returncode != 0:
        raise SystemExit(f"a search failed with exit code {process.returncode}:\n{remarks.decode()}")


def kept(storage: str) -> set[tuple[str, str]]:
    """Return the trials that are stored: their configs and values."""
    if "://" not in storage and not Path(storage).exists():
        return set()
    try:
        return {(trial.config.to_json(), str(trial.values)) for trial in Study.load(storage).trials}
    except PliantError as error:  # killed before the study was made
        print(f"  {error}")
        return set()


def rows(study: Study) -> dict[str, int]:
    """Count how the rows of a study ended, and the configs that have more than one complete row."""
    found = study.optuna.get_trials(deepcopy=False)
    with suppress(AttributeError):
        study.optuna._storage._backend.engine.dispose()
    states = [row.state.name for row in found]
    complete = [tuple(sorted(row.params.items())) for row in found if row.state.name == "COMPLETE"]
    return {
        "twice": len(complete) - len(set(complete)),
        "interrupted": sum(bool(row.user_attrs.get("again")) for row in found),
        "left running": states.count("RUNNING"),
    }


def figures(name: str, storage: str, budget: int, lost: int, kills: int, seconds: float) -> list[Figure]:
    """Return what is asked of every scenario."""
    study = Study.load(storage)
    counts = rows(study)
    facts = {"kills": kills, "budget": budget, "interrupted": counts["interrupted"], "seconds": round(seconds)}
    return [
        Figure(f"{name}: trials lost over {kills} kills", lost, "", limit=0, facts=facts),
        Figure(f"{name}: configs measured twice", counts["twice"], "", limit=0, facts=facts),
        Figure(f"{name}: trials missing of {budget}", abs(budget - len(study.trials)), "", limit=0, facts=facts),
        Figure(f"{name}: rows left running", counts["left running"], "", limit=0, facts=facts),
    ]


def moment(process: subprocess.Popen[bytes], storage: str, known: int, rng: random.Random) -> None:
    """Wait for the moment of a kill: one in four while the search starts, the others while it measures."""
    if rng.random() < 0.25:
        time.sleep(rng.uniform(0, 4))
        return
    end = time.monotonic() + 60
    while process.poll() is None and len(kept(storage)) <= known and time.monotonic() < end:
        time.sleep(0.1)
    time.sleep(rng.uniform(0, 2))


def in_turn(storage: str, budget: int, kills: int, rng: random.Random) -> int:
    """Start a search and kill it, ``kills`` times over; return how many stored trials were gone after a kill."""
    lost, before = 0, kept(storage)
    for number in range(kills):
        process = start(storage, budget, 0.1)
        moment(process, storage, len(before), rng)
        process.kill()
        process.communicate()
        now = kept(storage)
        lost += len(before - now)
        print(f"kill {number + 1}: {len(now)} trials kept")
        before = now
    return lost


def of_file(kills: int, rng: random.Random, folder: Path) -> list[Figure]:
    """Kill the only search on a file."""
    storage, budget, since = str(folder / "file.db"), 15 * kills, time.perf_counter()
    lost = in_turn(storage, budget, kills, rng)
    finish(start(storage, budget, 0))
    taken = time.perf_counter() - since
    whole = search(Toy(), objectives(), budget, searcher=Nsga2())
    pairs = zip(Study.load(storage).trials, whole.trials, strict=True)
    differing = sum((left.config, left.values) != (right.config, right.values) for left, right in pairs)
    return [
        *figures("file", storage, budget, lost, kills, taken),
        Figure("file: trials that differ from those of a search left alone", differing, "", limit=0),
    ]


def of_workers(kills: int, rng: random.Random, folder: Path) -> list[Figure]:
    """Kill workers of one search."""
    storage, budget, since, done, lost = str(folder / "workers.db"), 20 * kills, time.perf_counter(), 0, 0
    process, before = start(storage, budget, 0.1, 2), kept(storage)
    while done < kills and process.poll() is None:
        time.sleep(rng.uniform(1, 6))
        with suppress(OSError):
            children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text(encoding="ascii").split()
            if children:
                os.kill(int(rng.choice(children)), signal.SIGKILL)
                done += 1
        now = kept(storage)
        lost += len(before - now)
        before = now
    finish(process)
    return figures("workers", storage, budget, lost, done, time.perf_counter() - since)


def of_server(kills: int, rng: random.Random) -> list[Figure]:
    """Kill searches that share a study, and the server that holds it."""
    server = Server()
    try:
        storage, budget, since = server.url("kills"), 25 * kills, time.perf_counter()
        steady, lost, before = start(storage, budget, 0.1), 0, set[tuple[str, str]]()
        restarts = set(rng.sample(range(kills), min(RESTARTS, kills)))
        for number in range(kills):
            victim = start(storage, budget, 0.1)
            time.sleep(rng.uniform(3, 10))  # of which it takes some seconds to start
            if number in restarts:
                server.stop()
                time.sleep(rng.uniform(0.5, 3))
                server.start()
            victim.kill()
            victim.communicate()
            now = kept(storage)
            lost += len(before - now)
            print(f"kill {number + 1}{' and a restart' if number in restarts else ''}: {len(now)} trials kept")
            before = now
        if steady.poll() is not None:
            print("the steady search ended before the last kill")
        finish(steady)
        return figures("server", storage, budget, lost, kills, time.perf_counter() - since)
    finally:
        server.close()


def run(arguments: Sequence[str]) -> list[Figure]:
    """Run the scenarios and count what went wrong."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks kill_search", description=__doc__)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--only", choices=("file", "workers", "server"))
    asked = parser.parse_args(arguments)
    rng, found = random.Random(asked.seed), list[Figure]()
    with tempfile.TemporaryDirectory(prefix="pliant-kill-") as folder:
        if asked.only in (None, "file"):
            found += of_file(asked.kills, rng, Path(folder))
        if asked.only in (None, "workers"):
            found += of_workers(asked.kills, rng, Path(folder))
        if asked.only in (None, "server"):
            found += of_server(asked.kills, rng)
    return found
