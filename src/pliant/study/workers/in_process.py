"""No workers: the search measures in its own process and thread."""

from __future__ import annotations

from dataclasses import dataclass

from ...space import Config
from ..evaluation import Evaluation
from .base import Report


@dataclass(frozen=True)
class InProcess:
    """Measure here, one config after the other."""

    def open(self, evaluation: Evaluation) -> InProcessCrew:
        """Return the crew; see :class:`~pliant.study.workers.base.Workers`."""
        return InProcessCrew(evaluation)


class InProcessCrew:
    """Measures while it is waited for."""

    count = 1

    def __init__(self, evaluation: Evaluation) -> None:
        self._evaluation = evaluation
        self._job: tuple[int, Config, int] | None = None

    def submit(self, ticket: int, config: Config, repeat: int = 0) -> None:
        """Keep the config for :meth:`wait`."""
        self._job = (ticket, config, repeat)

    def wait(self, timeout: float | None = None) -> list[Report]:
        """Measure; it takes as long as it takes, whatever the ``timeout``."""
        if self._job is None:
            return []
        ticket, config, repeat = self._job
        outcome = self._evaluation.measure(config, repeat)
        self._job = None
        return [Report(ticket, outcome)]

    def close(self) -> None:
        """There is nothing to stop."""
        self._job = None
