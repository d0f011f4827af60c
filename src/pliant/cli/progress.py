"""Live progress of a run on a terminal; plain lines where the output is not one."""

from __future__ import annotations

import time
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from ..report.figures import digits, duration


class LiveEvents:
    """Listens to a run: ``phase`` begins a part of it, ``step`` moves it on, ``note`` says a line that stays.

    A context manager; leaving it, by whatever way, puts the terminal in order.
    """

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console()
        self._progress = Progress(
            TextColumn("{task.description}", style="bold"),
            BarColumn(bar_width=28),
            MofNCompleteColumn(),
            TextColumn("{task.fields[figures]}"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=self.console,
            transient=True,
            disable=not self.console.is_terminal,
        )
        self._task: TaskID | None = None
        self._name = ""
        self._figures = ""
        self._since = time.monotonic()

    def __enter__(self) -> LiveEvents:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self._finish()
        self._progress.stop()

    def phase(self, name: str, total: int | None = None) -> None:
        """Begin a part of the run, of ``total`` steps if that is known; the part before it is over."""
        self._finish()
        self._name, self._figures, self._since = name, "", time.monotonic()
        self._task = self._progress.add_task(name, total=total, figures="")

    def step(self, done: int, **figures: float) -> None:
        """Say how far the part is, and its latest figures (``loss=0.31``)."""
        self._figures = "  ".join(
            f"{name} {value if isinstance(value, int) else digits(value)}" for name, value in figures.items()
        )
        if self._task is not None:
            self._progress.update(self._task, completed=done, figures=self._figures)

    def note(self, text: str) -> None:
        """Say a line that stays on the screen."""
        self._say(Text(f"  {text}", style="dim"))

    def _finish(self) -> None:
        if self._task is None:
            return
        self._progress.remove_task(self._task)
        self._task = None
        took = duration(time.monotonic() - self._since)
        self._say(
            Text.assemble((self._name, "bold"), f"  {took}", (f"  {self._figures}" if self._figures else "", "dim"))
        )

    def _say(self, text: Any) -> None:
        self.console.print(text, highlight=False)
