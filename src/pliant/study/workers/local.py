"""Workers that are processes on this machine, each with the family in its own memory.

They are started as new programs and not by ``multiprocessing``, so a script needs no ``if __name__ == "__main__"``
and a notebook will do.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.connection import wait as any_of
from typing import Any

from ...checks import PliantError, WrongShapeError
from ...space import Config
from ..evaluation import Evaluation
from .base import Report
from .package import packed

_LOOK = 1.0
"""Seconds between looks at whether a silent process still lives."""

_DEATHS = 3
"""Workers in a row that may die before they have loaded the family."""

_START = "from pliant.study.workers.child import main; main({handle}, {threads})"


@dataclass(frozen=True)
class LocalProcesses:
    """Processes on this machine; each loads the family once.

    They share its cores, so a latency that one measures is disturbed by the others.

    Attributes:
        count: how many.
        threads: of torch in each; the cores of this process shared out evenly where ``None``.

    Raises:
        WrongShapeError: fewer than one process or thread.
    """

    count: int = 2
    threads: int | None = None

    def __post_init__(self) -> None:
        if self.count < 1 or (self.threads is not None and self.threads < 1):
            raise WrongShapeError(f"count and threads are at least 1, got {self.count} and {self.threads}")

    def open(self, evaluation: Evaluation) -> LocalCrew:
        """Return the crew; see :class:`~pliant.study.workers.base.Workers`."""
        if os.name != "posix":
            raise PliantError("worker processes need Linux or macOS here: use workers=1 or RayTasks()")
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        return LocalCrew(packed(evaluation), self.count, self.threads or max(1, cores // self.count))


class _Process:
    """One process and the line to it."""

    def __init__(self, threads: int) -> None:
        ours, theirs = socket.socketpair()
        numbers = {name: str(threads) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")}
        places = os.pathsep.join(place or os.getcwd() for place in sys.path)  # noqa: PTH109
        try:
            self.program = subprocess.Popen(
                [sys.executable, "-c", _START.format(handle=theirs.fileno(), threads=threads)],
                pass_fds=(theirs.fileno(),),
                stdin=subprocess.DEVNULL,
                env={**os.environ, **numbers, "PYTHONPATH": places},
            )
        finally:
            theirs.close()
        self.line: Connection[Any, Any] = Connection(ours.detach())
        self.state = "starting"
        self.job: tuple[int, Config, int] | None = None

    def send(self, message: object) -> None:
        with suppress(OSError):  # it died: that shows when it is listened to
            self.line.send(message)

    def stop(self) -> None:
        self.line.close()
        if self.state == "starting" or self.job is not None:
            self.program.kill()
        try:
            self.program.wait(5)
        except subprocess.TimeoutExpired:
            self.program.kill()
            self.program.wait()

    def death(self) -> str:
        """Say how it ended."""
        try:
            code = self.program.wait(5)
        except subprocess.TimeoutExpired:
            self.program.kill()
            return "its line broke"
        if code >= 0:
            return f"exit code {code}"
        hint = ", perhaps for want of memory" if code == -signal.SIGKILL else ""
        return f"killed by {signal.Signals(-code).name}{hint}"


class LocalCrew:
    """Processes that are started as they are needed, and anew when they die."""

    def __init__(self, content: bytes, count: int, threads: int) -> None:
        self.count = count
        self._content = content
        self._threads = threads
        self._processes: list[_Process] = []
        self._deaths = 0  # before the family was loaded, while no other worker got anything done

    def submit(self, ticket: int, config: Config, repeat: int = 0) -> None:
        """Give the config to a free process, or to a new one."""
        free = [process for process in self._processes if process.job is None]
        free.sort(key=lambda process: process.state != "ready")
        if not free:
            self._processes.append(_Process(self._threads))
            free = self._processes[-1:]
        process = free[0]
        process.job = (ticket, config, repeat)
        if process.state != "starting":
            process.send(process.job)

    def wait(self, timeout: float | None = None) -> list[Report]:
        """Wait for a report; see :class:`~pliant.study.workers.base.Crew`."""
        end = None if timeout is None else time.monotonic() + timeout
        reports: list[Report] = []
        while not reports:
            left = _LOOK if end is None else min(_LOOK, end - time.monotonic())
            if left < 0 or not self._processes:
                break
            lines = any_of([process.line for process in self._processes], left)
            for process in list(self._processes):
                if process.line in lines:
                    reports += self._heard(process)
                elif process.program.poll() is not None and not process.line.poll():
                    reports += self._lost(process)
        return reports

    def _heard(self, process: _Process) -> list[Report]:
        try:
            kind, content = process.line.recv()
        except (EOFError, OSError):
            return self._lost(process)
        if kind == "broken":
            raise PliantError(
                f"a worker cannot load the family and the objectives: {content}. Is all that they need importable "
                "in a new process? Otherwise use workers=1"
            )
        if kind == "done":
            process.job = None
            self._deaths = 0
            return [Report(*content)]
        if kind == "hello":
            process.state = "loading"
            process.send(self._content)
            if process.job is not None:
                process.send(process.job)
        else:
            process.state = "ready"
            self._deaths = 0
        return []

    def _lost(self, process: _Process) -> list[Report]:
        self._processes.remove(process)
        process.line.close()
        how = process.death()
        if process.state != "ready":
            self._deaths += 1
            if self._deaths >= _DEATHS:
                raise PliantError(
                    f"{self._deaths} worker processes in a row died while they loaded the family ({how}): is there "
                    f"memory for {self.count} copies of it? Fewer workers need less"
                )
        return [] if process.job is None else [Report(process.job[0], None, how)]

    def close(self) -> None:
        """Stop the processes, whatever they are doing."""
        for process in self._processes:
            process.stop()
        self._processes.clear()
