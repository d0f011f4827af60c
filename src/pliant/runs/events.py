"""What a run tells whoever watches it."""

from __future__ import annotations

from typing import Protocol


class Events(Protocol):
    """Listens to a run; see :class:`pliant.cli.progress.LiveEvents` for one that draws."""

    def phase(self, name: str, total: int | None = None) -> None:
        """Begin a part of the run, of ``total`` steps if that is known."""
        ...

    def step(self, done: int, **figures: float) -> None:
        """Say how far the part is, and its latest figures."""
        ...

    def note(self, text: str) -> None:
        """Say a line that stays."""
        ...


class Silence:
    """Listens and says nothing."""

    def phase(self, name: str, total: int | None = None) -> None:
        """Do nothing."""

    def step(self, done: int, **figures: float) -> None:
        """Do nothing."""

    def note(self, text: str) -> None:
        """Do nothing."""
