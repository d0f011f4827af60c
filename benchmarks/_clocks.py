"""Two calls against each other by two clocks."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable

import numpy as np
import torch

WARM_UP = 3


def against(own: Callable[[], object], other: Callable[[], object], repeats: int) -> tuple[np.ndarray, np.ndarray]:
    """Call both by turns, forwards and backwards, and return the seconds of each, ``(repeats,)``.

    With one thread the processor time of this process counts: on a quiet machine it is the time on the wall, on a busy
    one it leaves out the waiting for others. With more threads, whose waiting for each other is work as well, it is the
    time on the wall.
    """
    clock = time.process_time if torch.get_num_threads() == 1 else time.perf_counter
    calls, samples = (own, other), np.empty((2, repeats))
    for _ in range(WARM_UP):
        for call in calls:
            call()
    gc.collect()
    gc.disable()
    try:
        for repeat in range(repeats):
            for index in (0, 1) if repeat % 2 == 0 else (1, 0):
                start = clock()
                calls[index]()
                samples[index, repeat] = clock() - start
    finally:
        gc.enable()
    return samples[0], samples[1]
