"""Timing calls against each other on a machine that is never quiet."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

Call = Callable[[], Any]

SHORTEST_SAMPLE = 1e-3
"""Seconds: a shorter call is repeated inside one sample until the sample is at least this long."""

WARM_UP = 0.05
"""Seconds of warming up per call, and at least three calls."""


@contextmanager
def torch_threads(count: int) -> Iterator[None]:
    """Let torch use ``count`` threads inside an operation; restore the former number afterwards."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def interleave(calls: Sequence[Call], repeats: int) -> list[np.ndarray]:
    """Time ``calls`` in turn, ``repeats`` times over, and return for each the seconds per call, in order.

    One loop holds them all, forwards and backwards by turns, so that a machine that slows down does so for all alike.
    Garbage is collected before and not during.
    """
    inner = [_warm(call) for call in calls]
    samples = np.empty((len(calls), repeats))
    collecting = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        for repeat in range(repeats):
            order = range(len(calls)) if repeat % 2 == 0 else reversed(range(len(calls)))
            for index in order:
                samples[index, repeat] = _seconds(calls[index], inner[index]) / inner[index]
    finally:
        if collecting:
            gc.enable()
    return list(samples)


def _warm(call: Call) -> int:
    """Warm up and return how many calls make one sample long enough."""
    spent, count, fastest = 0.0, 0, float("inf")
    while count < 3 or spent < WARM_UP:
        seconds = _seconds(call, 1)
        spent, count, fastest = spent + seconds, count + 1, min(fastest, seconds)
    return max(1, int(np.ceil(SHORTEST_SAMPLE / max(fastest, 1e-9))))


def _seconds(call: Call, times: int) -> float:
    synchronize = torch.cuda.synchronize if torch.cuda.is_initialized() else _nothing
    synchronize()
    start = time.perf_counter()
    for _ in range(times):
        call()
    synchronize()
    return time.perf_counter() - start


def _nothing() -> None:
    return None


def spread(samples: np.ndarray) -> float:
    """The inter-quartile range."""
    low, high = np.percentile(samples, [25, 75])
    return float(high - low)
