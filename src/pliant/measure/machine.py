"""What the numbers were measured on."""

from __future__ import annotations

import os
import platform
import subprocess
from contextlib import suppress
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any


def machine() -> dict[str, Any]:
    """Return the processor, its cores, the system and the versions that matter for a measurement.

    The keys are ``cpu``, ``cores`` (that this process may use), ``os``, ``python``, ``torch``, and, where present,
    ``onnxruntime`` and ``accelerator``. Names of people or hosts are not among them, so a report can be shared.
    """
    return dict(_facts())


@cache
def _facts() -> tuple[tuple[str, Any], ...]:
    facts: dict[str, Any] = {
        "cpu": _processor(),
        "cores": _cores(),
        "os": f"{platform.system()} {platform.release()} {platform.machine()}",
        "python": platform.python_version(),
    }
    import torch

    facts["torch"] = str(torch.__version__)
    with suppress(metadata.PackageNotFoundError):
        facts["onnxruntime"] = metadata.version("onnxruntime")
    if torch.cuda.is_available():
        facts["accelerator"] = torch.cuda.get_device_name()
    return tuple(facts.items())


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _processor() -> str:
    """The marketing name where the system tells it, else whatever ``platform`` knows."""
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines():
            if line.lower().startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    if platform.system() == "Darwin":
        command = ["sysctl", "-n", "machdep.cpu.brand_string"]
        found = subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
        if found:
            return found
    return platform.processor() or platform.machine()
