"""Two calls against each other by two clocks, and memory that stays."""

from __future__ import annotations

import ctypes
import gc
import sys
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


def keep_heap() -> None:
    """Have the GNU C library keep freed memory; others are left as they are.

    It gives the top of its heap back to the system whenever a step frees it, and asks for it again, page by page, in
    the next: how often, depends on what happens to lie above. The digits network alone took 5 to 8 % longer with its
    gradients kept from step to step than without, and no longer once the library was told to keep what it has.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        for parameter in (-1, -3):  # from how much on the heap shrinks, and blocks are mapped by themselves
            mallopt(parameter, 1 << 30)
