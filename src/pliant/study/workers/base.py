"""What the search needs of workers: two small protocols, settings and the crew that they make."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from ...checks import WrongShapeError
from ...space import Config
from ..evaluation import Evaluation, Outcome


@dataclass(frozen=True)
class Report:
    """What a worker hands in.

    Attributes:
        ticket: the number under which the config was given out.
        outcome: what came of it; ``None`` where the worker died over it.
        death: how it died.
    """

    ticket: int
    outcome: Outcome | None = None
    death: str = ""


class Crew(Protocol):
    """Workers at work. All methods are called from one thread."""

    count: int
    """How many configs can be measured at the same time."""

    def submit(self, ticket: int, config: Config, repeat: int = 0) -> None:
        """Give ``config`` to a free worker; never called while :attr:`count` configs are out."""
        ...

    def wait(self, timeout: float | None = None) -> list[Report]:
        """Wait until a config is done or its worker dead; nothing after ``timeout`` seconds.

        Raises:
            PliantError: nothing can be measured any more.
        """
        ...

    def close(self) -> None:
        """Stop all workers, whatever they are doing."""
        ...


@runtime_checkable
class Workers(Protocol):
    """Settings from which a crew is made for one search."""

    @abstractmethod
    def open(self, evaluation: Evaluation) -> Crew:
        """Make the crew that measures with ``evaluation``.

        Raises:
            PliantError: it cannot be made: a cluster is not there, something cannot be sent to another process.
        """
        ...


def workers(given: int | Workers) -> Workers:
    """Return what ``workers=`` stands for: 1 is this process, more are local processes.

    Raises:
        WrongShapeError: neither a number from 1 nor workers.
    """
    from .in_process import InProcess
    from .local import LocalProcesses

    if isinstance(given, Workers):
        return given
    if isinstance(given, bool) or not isinstance(given, int) or given < 1:
        raise WrongShapeError(
            f"workers is a number from 1, or an object such as LocalProcesses(2) or RayTasks(), got {given!r}"
        )
    return InProcess() if given == 1 else LocalProcesses(given)
