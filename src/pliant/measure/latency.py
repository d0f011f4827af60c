"""Latency as deployed: the runtime that ships, against a reference in the same loop."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from torch import nn

from ..checks import WrongShapeError, unknown
from .inference import Args, Kwargs, batch_size, evaluating, placed
from .machine import machine
from .measurement import Measurement
from .objective import Objective
from .onnx_runtime import session_call, to_onnx
from .timing import Call, interleave, spread, torch_threads

Runtime = Literal["torch", "onnxruntime"]
RUNTIMES = ("torch", "onnxruntime")


@dataclass(frozen=True, eq=False)
class Latency(Objective):
    """The time of one forward pass in milliseconds: the median of ``repeats`` samples, their quartile range beside it.

    The member is warmed up and timed in one loop with ``reference`` (by turns, so that both see the same machine);
    ``details["ratio"]`` is the median of their paired ratios, below 1 where the member is faster. A sample of a very
    short net holds as many calls as make a millisecond.

    Attributes:
        example_args: positional arguments of the forward pass, whose batch is the batch that is timed.
        runtime: ``"torch"``, or ``"onnxruntime"`` (converts each net once; extra ``onnx``).
        threads: threads inside an operation; operations run one after the other.
        repeats: samples, at least 20.
        reference: the network to compare with, often the full one; without it there is no ratio.

    Raises:
        UnknownNameError: no such runtime.
        WrongShapeError: too few repeats or threads.
        MissingExtraError: (on measuring) ONNX Runtime is not installed.
    """

    example_args: Args
    runtime: Runtime = "torch"
    threads: int = 1
    repeats: int = 20
    reference: nn.Module | None = None
    example_kwargs: Kwargs | None = None
    _sessions: dict[str, Call] = field(default_factory=dict, init=False, repr=False)
    name = "latency"
    unit = "ms"

    def __post_init__(self) -> None:
        if self.runtime not in RUNTIMES:
            raise unknown("runtime", str(self.runtime), RUNTIMES)
        if self.repeats < 20:
            raise WrongShapeError(f"repeats is at least 20 for a median with a spread, got {self.repeats}")
        if self.threads < 1:
            raise WrongShapeError(f"threads is at least 1, got {self.threads}")

    def __getstate__(self) -> dict[str, Any]:  # a worker process converts the reference for itself
        return {**self.__dict__, "_sessions": {}}

    def measure(self, member: nn.Module) -> Measurement:
        """Measure ``member``; see the class."""
        nets = [member] if self.reference is None or self.reference is member else [member, self.reference]
        args, kwargs = placed(member, self.example_args, self.example_kwargs)
        with ExitStack() as stack:
            stack.enter_context(torch_threads(self.threads))
            for net in nets:
                stack.enter_context(evaluating(net))
            calls = [self._call(net) for net in nets]
            samples = interleave(calls, self.repeats)
        if self.reference is member:
            samples = [samples[0], samples[0]]
        facts = {"runtime": self.runtime, "threads": self.threads, "batch": batch_size(args, kwargs)}
        return summary(samples, facts)

    def _call(self, net: nn.Module) -> Call:
        args, kwargs = placed(net, self.example_args, self.example_kwargs)
        if self.runtime == "torch":
            return lambda: net(*args, **kwargs)
        if net is not self.reference:
            return session_call(to_onnx(net, args, kwargs), args, kwargs, self.threads)
        if "reference" not in self._sessions:  # converting takes seconds; each member brings the reference again
            self._sessions["reference"] = session_call(to_onnx(net, args, kwargs), args, kwargs, self.threads)
        return self._sessions["reference"]


def summary(samples: Sequence[np.ndarray], facts: Mapping[str, Any]) -> Measurement:
    """Make the measurement, in milliseconds, of ``samples[0]`` (seconds per call), against ``samples[1]`` if given."""
    own = samples[0] * 1e3
    details: dict[str, Any] = {**facts, "repeats": len(own), "machine": machine()}
    if len(samples) > 1:
        other = samples[1] * 1e3
        details["ratio"] = float(np.median(own / other))
        details["ratio_spread"] = spread(own / other)
        details["reference"] = float(np.median(other))
        details["reference_spread"] = spread(other)
    return Measurement(float(np.median(own)), "ms", spread(own), details)
