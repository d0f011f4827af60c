"""Processes that begin where imports are done: each is forked from one that imported modules and did nothing else."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

# A child ends as those of multiprocessing do: libraries would wait for threads that a fork does not take along.
_PARENT = """
import gc, importlib, json, os, sys, traceback
for name in sys.argv[1:]:
    importlib.import_module(name)
gc.collect()
gc.freeze()  # or every collection of a child looks through all that was imported, and copies it as it does
job = None
for line in sys.stdin:
    order = json.loads(line)
    if "poll" in order:
        done, status = os.waitpid(order["poll"], os.WNOHANG)
        print(json.dumps(os.waitstatus_to_exitcode(status) if done else None), flush=True)
        continue
    pid = os.fork()
    if not pid:
        job = order
        break
    print(json.dumps(pid), flush=True)
if job:
    files = (os.devnull, os.O_RDONLY), (job["out"], os.O_WRONLY | os.O_CREAT), (job["err"], os.O_WRONLY | os.O_CREAT)
    for number, (path, flags) in enumerate(files):
        os.dup2(os.open(path, flags, 0o600), number)
    os.chdir(job["cwd"])
    os.environ.update(job["env"])
    sys.argv[1:] = job["argv"]
    code = 0
    try:
        exec(compile(job["code"], "<job>", "exec"), {"__name__": "__main__"})
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 0 if end.code is None else 1
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
    except BaseException:
        traceback.print_exc()
        code = 1
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
"""


@dataclass
class Child:
    """One process; ``code`` is its exit status, the negative signal where one ended it, None before its end."""

    nursery: Nursery
    pid: int
    out: Path
    err: Path
    code: int | None = None

    def wait(self, timeout: float) -> bool:
        """Wait up to ``timeout`` seconds for its end; return whether it came."""
        limit = time.monotonic() + timeout
        while self.code is None:
            self.code = self.nursery.ask({"poll": self.pid})
            if self.code is None:
                if time.monotonic() > limit:
                    return False
                time.sleep(0.02)
        return True

    def send(self, signal: int) -> None:
        """Send a signal to it."""
        if self.code is None:
            os.kill(self.pid, signal)

    @property
    def remarks(self) -> str:
        """What it wrote to standard error."""
        return self.err.read_text(encoding="utf-8", errors="replace")


class Nursery:
    """Starts processes that have ``modules`` imported, which else takes seconds each; a context manager."""

    def __init__(self, *modules: str, cwd: Path, env: Mapping[str, str] | None = None) -> None:
        command = [sys.executable, "-c", _PARENT, *modules]
        environment = {**os.environ, **(env or {})}
        self._parent = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=cwd, env=environment
        )

    def ask(self, order: Mapping[str, Any]) -> Any:
        """Return the parent's answer to one order."""
        assert self._parent.stdin is not None
        assert self._parent.stdout is not None
        self._parent.stdin.write(json.dumps(order) + "\n")
        self._parent.stdin.flush()
        answer = self._parent.stdout.readline()
        assert answer, "the process that the others are forked from is gone"
        return json.loads(answer)

    def start(self, code: str, *argv: str, cwd: Path, log: Path, env: Mapping[str, str] | None = None) -> Child:
        """Start ``code`` in ``cwd``; what it writes goes to ``log`` with ``.out`` and ``.err`` added."""
        out, err = Path(f"{log}.out"), Path(f"{log}.err")
        for path in (out, err):
            path.write_text("")
        order = {"code": code, "argv": argv, "cwd": str(cwd), "out": str(out), "err": str(err), "env": dict(env or {})}
        return Child(self, self.ask(order), out, err)

    def __enter__(self) -> Nursery:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._parent.communicate()
