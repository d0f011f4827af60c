"""Random numbers of one process: those that draw batches, the same everywhere, and those of its forward passes."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from ..graph.prepare import draw_from
from .checkpoint import random_states, set_random_states
from .processes import Processes


class Noise:
    """Keeps the random numbers of forward passes (dropout) apart, where several processes train together.

    Every process draws batches from the same numbers, so that what they shuffle they shuffle alike, and has dropout of
    its own. A process that is alone has one row of numbers for both.

    Args:
        processes: the processes of the run.
        seed: the run's seed.
    """

    def __init__(self, processes: Processes, seed: int) -> None:
        self._processes, self._seed = processes, seed
        self._states: dict[str, Any] = {}

    @contextmanager
    def own(self) -> Iterator[None]:
        """Draw from this process's own numbers in this block."""
        if self._processes.count == 1:
            yield
            return
        outside = random_states()
        if self._states:
            set_random_states(self._states)
        else:
            text = f"{self._seed}:{self._processes.rank}"
            draw_from(int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big"))
        try:
            yield
        finally:
            self._states = random_states()
            set_random_states(outside)

    def held(self) -> dict[str, Any]:
        """Return what a checkpoint must hold: of all processes, for whichever writes it."""
        if self._processes.count == 1:
            return {}
        rows = self._processes.gathered({"batches": random_states(), "own": self._states})
        return {str(rank): row for rank, row in enumerate(rows)}

    def take(self, held: Mapping[str, Any]) -> None:
        """Go on from what :meth:`held` gave; a process that was not there then draws new ones."""
        mine = held.get(str(self._processes.rank))
        if self._processes.count > 1 and mine:
            self._states = dict(mine["own"])
            set_random_states(mine["batches"])
