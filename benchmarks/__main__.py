"""``python -m benchmarks [NAME] [arguments of that benchmark]``, or several names, or none: all that take minutes."""

from __future__ import annotations

import importlib
import pkgutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from . import __path__ as FOLDER
from ._figures import OUT, load, show, store


def names() -> list[str]:
    """Return the benchmarks, by file."""
    return sorted(m.name for m in pkgutil.iter_modules(FOLDER) if not m.name.startswith("_"))


def one(name: str, arguments: Sequence[str]) -> None:
    """Run one benchmark in this process; print its table and store its figures."""
    module = importlib.import_module(f"benchmarks.{name}")
    start = time.perf_counter()
    figures = module.run(arguments)
    label = module.label(arguments) if hasattr(module, "label") else name
    record = store(label, arguments, figures, time.perf_counter() - start)
    show(record)


def by_default() -> list[str]:
    """Return the benchmarks that take minutes; say which are left out."""
    found = []
    for name in names():
        if getattr(importlib.import_module(f"benchmarks.{name}"), "BY_DEFAULT", True):
            found.append(name)
        else:
            print(f"{name}: left out, it takes long; run `python -m benchmarks {name}`")
    return found


def several(chosen: Sequence[str]) -> int:
    """Run each benchmark in a process of its own, so that none finds what another left; return the exit status."""
    status, done = 0, []
    for name in chosen:
        failed = subprocess.run([sys.executable, "-m", "benchmarks", name], check=False).returncode
        status = status or failed
        done += [] if failed else [name]
    rows = [(name, row) for name in done for row in load(name)["figures"]]
    missed = [f"{name}: {row['name']}" for name, row in rows if row["passed"] is False]
    print(f"{sum(row['passed'] is True for _, row in rows)} limits kept, {len(missed)} missed; stored in {OUT}/")
    print("".join(f"  missed: {line}\n" for line in missed), end="")
    return status


def main(arguments: Sequence[str]) -> int:
    """Run what the command line asks for."""
    if not Path("benchmarks").is_dir():
        print("run this at the root of the repository", file=sys.stderr)
        return 2
    if not arguments:
        return several(by_default())
    if len(arguments) > 1 and set(arguments) <= set(names()):
        return several(arguments)
    if arguments[0] not in names():
        print(f"there is no benchmark {arguments[0]!r}; choose from {', '.join(names())}", file=sys.stderr)
        return 2
    one(arguments[0], arguments[1:])
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
