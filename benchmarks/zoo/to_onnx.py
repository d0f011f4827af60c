"""Export of a half-sized network to ONNX within a limit of processor time; the full one tells whose fault it is."""

from __future__ import annotations

import random
import signal
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from pliant.export import export
from pliant.graph import analyze
from pliant.graph.realise import sliced_copy
from pliant.graph.slicing import Slicing
from tests.graph.support import half, randomise

from .entries import Net


class TooLongError(Exception):
    """The limit is over."""


def measure_onnx(net: Net, keep: Callable[[dict[str, Any]], None], limit: float, form: str) -> dict[str, Any]:
    """Export a half of one network, in the form that its own measurement found good; ``onnx`` is what came of it."""
    record: dict[str, Any] = {"name": net.name, "group": net.group, "outcome": "unfinished", "checks": {}}
    keep(record)
    torch.manual_seed(11)
    model, args, kwargs = net.make()
    randomise(model)
    record["parameters"] = sum(p.numel() for p in model.parameters())
    keep(record)
    begun = time.process_time()
    analysis = analyze(model, tuple(args), kwargs)
    cut = sliced_copy(model, Slicing(analysis, half(analysis, random.Random(5))), form)
    record["onnx"] = try_onnx(cut, model, tuple(args), kwargs, limit)
    record |= {"outcome": "ok", "seconds": {"all": round(time.process_time() - begun, 2)}}
    keep(record)
    return record


def try_onnx(cut: nn.Module, full: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any], limit: float) -> str:
    """Return ``"ok"``, or why not: ``"too long"``, ``"the original fails: …"`` or ``"fails: …"``."""
    why = _attempt(cut, args, kwargs, limit)
    if not why.startswith("fails"):
        return why
    original = _attempt(full, args, kwargs, limit)
    return why if original == "ok" else f"the original {original}"


def _attempt(net: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any], limit: float) -> str:
    with tempfile.TemporaryDirectory() as folder:
        try:
            with _at_most(limit):
                export(net, Path(folder) / "net.onnx", args, kwargs, time=False, dynamic_batch=False)
        except TooLongError:
            return "too long"
        except Exception as error:  # noqa: BLE001  (whatever the exporter raises is the answer)
            return f"fails: {type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"[:300]
    return "ok"


@contextmanager
def _at_most(seconds: float) -> Iterator[None]:
    """Raise after ``seconds`` of processor time."""

    def stop(*_: Any) -> None:
        raise TooLongError

    before = signal.signal(signal.SIGPROF, stop)
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)
