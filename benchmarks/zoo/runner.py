"""Processes for the networks: one each, forked from a server that has imported the libraries once."""

from __future__ import annotations

import json
import math
import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from .entries import Net

FOLDER = Path("bench-out") / "zoo"
_PATIENCE = 10  # a process that waits for others may take this many times its limit
_MEMORY = 12 * 2**30  # bytes that another tool may take
_GRACE = 2.0  # seconds between asking a process to end and making it
_PER_MILLION = 0.3  # seconds more for each million parameters
PLIANT, ONNX = "", "onnx"  # what measures, beside the peer


def file_of(name: str, tool: str = "") -> Path:
    """Return where the record of a network is kept: Pliant's, or that of another tool."""
    return FOLDER / tool / f"{name.replace('/', '.')}.json"


def load(name: str, tool: str = "") -> dict[str, Any] | None:
    """Return the record of a network, or None."""
    try:
        found: dict[str, Any] = json.loads(file_of(name, tool).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found


def finished(name: str, tool: str = "") -> bool:
    """Tell whether a network was measured to some end."""
    record = load(name, tool)
    return record is not None and record["outcome"] != "unfinished"


def work(name: str, limit: float, tool: str = PLIANT, onnx: float = 0.0) -> None:
    """Measure one network: what a process of its own does.

    It gets ``limit`` seconds of processor time and more for large networks, by their parameters.
    """
    import resource
    import warnings

    import torch

    from pliant.files import write_json

    from .entries import networks
    from .measure import measure
    from .peer import measure_peer
    from .to_onnx import measure_onnx

    def allow(seconds: float) -> None:
        resource.setrlimit(resource.RLIMIT_CPU, (math.ceil(seconds), resource.getrlimit(resource.RLIMIT_CPU)[1]))

    allow(limit)
    if tool:  # it may take more memory than the machine has
        resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)

    def keep(record: dict[str, Any]) -> None:
        if "parameters" in record and "limit" not in record:
            record["limit"] = round(limit + _PER_MILLION * record["parameters"] / 1e6)
            allow(record["limit"])
        write_json(file_of(name, tool), record)

    net = networks()[name]
    if tool == ONNX:
        measure_onnx(net, keep, onnx, (load(name) or {}).get("form", "graph"))
    elif tool:
        measure_peer(net, keep)
    else:
        measure(net, keep)


@dataclass
class _Running:
    name: str
    process: BaseProcess
    begun: float


def run_all(
    nets: Sequence[Net], jobs: int, limit: float, tell: Callable[[str], None], tool: str = PLIANT, onnx: float = 0.0
) -> None:
    """Measure ``nets``, ``jobs`` at once, each for ``limit`` seconds of processor time (large ones get more).

    ``tool`` is ``PLIANT``, or ``ONNX`` where only the export of a half is tried, or names the peer that is measured
    instead: ``torch_pruning``. ``onnx`` is the limit of an export in seconds; 0 makes none.
    """
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["benchmarks.zoo.preload"])
    (FOLDER / tool).mkdir(parents=True, exist_ok=True)
    waiting, running, done = list(nets)[::-1], list[_Running](), 0
    while waiting or running:
        while waiting and len(running) < jobs:
            name = waiting.pop().name
            file_of(name, tool).unlink(missing_ok=True)
            process = context.Process(target=work, args=(name, limit, tool, onnx), daemon=True)
            process.start()
            running.append(_Running(name, process, time.monotonic()))
        time.sleep(0.05)
        for row in list(running):
            late = time.monotonic() - row.begun > _PATIENCE * limit
            if row.process.is_alive() and not late:
                continue
            _end(row, late, limit, tool)
            running.remove(row)
            done += 1
            tell(_line(row.name, done, len(nets), tool))


def _end(row: _Running, late: bool, limit: float, tool: str) -> None:
    from pliant.files import write_json

    if row.process.is_alive():
        row.process.terminate()
        row.process.join(_GRACE)
        if row.process.is_alive():
            row.process.kill()
    row.process.join()
    record = load(row.name, tool)
    if record is None or record["outcome"] == "unfinished":
        record = record or {"name": row.name, "group": row.name.partition("/")[0], "checks": {}, "seconds": {}}
        late = late or row.process.exitcode == -signal.SIGXCPU
        why = f"the process ended with status {row.process.exitcode}"
        if late:
            why = f"not done after {record.get('limit', limit):.0f} s"
        stage = record.get("stage", "start")
        record |= {"outcome": "timeout" if late else "crash", "error": f"{why}, in stage {stage!r}"}
        write_json(file_of(row.name, tool), record)


def _line(name: str, done: int, total: int, tool: str) -> str:
    record = load(name, tool) or {}
    parts = [f"{done}/{total} {name}: {record.get('outcome')}"]
    if record.get("left_inside") is not None:
        parts.append(f"{record.get('form')} form, {record['left_inside']:.0%} left inside, {record['left']:.0%} in all")
    if record.get("error"):
        parts.append(str(record["error"]).splitlines()[0][:160])
    parts.append(f"{record.get('seconds', {}).get('all', 0):.1f} s")
    return "; ".join(parts)
