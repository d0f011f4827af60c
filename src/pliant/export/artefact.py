"""What an export made."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..measure import Measurement

Prepare = Callable[[tuple[Any, ...], dict[str, Any]], Callable[[], Any]]
"""Readies an artefact for ``(args, kwargs)`` and returns the call to time; its output is the network's, flat or not."""


@dataclass(frozen=True)
class Artefact:
    """A file that holds a network.

    Attributes:
        path: the file.
        format: ``"pt2"``, ``"onnx"`` or ``"safetensors"``.
        bytes: its size, without its card.
        max_error: the largest difference from the network, over the largest output; ``None`` where not checked.
        latency: in its runtime, on the example arguments with one thread; ``None`` where not timed.
        load_lines: Python that loads it as ``net`` (or ``session``) without Pliant.
        details: ``dynamic_batch``, ``fixed_because``, ``opset``, ``runtime``, ``checked_batches``, names of inputs …
    """

    path: Path
    format: str
    bytes: int
    max_error: float | None
    latency: Measurement | None
    load_lines: str
    details: Mapping[str, Any] = field(default_factory=dict)

    @property
    def dynamic_batch(self) -> bool:
        """Whether it takes any batch size; if not, ``details["fixed_because"]`` says why."""
        return bool(self.details.get("dynamic_batch", False))

    def __str__(self) -> str:
        facts = [f"{self.bytes:,} bytes".replace(",", "\u202f")]
        if self.max_error is not None:
            facts.append(
                f"equal to the network within {self.max_error:.1g}" if self.max_error else "equal to the network"
            )
        if self.latency is not None:
            told = self.latency.details
            where = [f"{key} {told[key]}" for key in ("batch", "threads") if key in told]
            facts.append(f"{self.latency} in {', '.join([str(told.get('runtime', 'its runtime')), *where])}")
        if "dynamic_batch" in self.details:
            facts.append("any batch size" if self.dynamic_batch else f"one batch size: {self.details['fixed_because']}")
        return f"{self.path}: {'; '.join(facts)}"


@dataclass(frozen=True)
class Draft:
    """A file just written under a temporary name, and how to run it.

    Attributes:
        prepare: readies the file for arguments and returns the call that runs it.
        dynamic: whether any batch size should work.
        load_lines: as in :class:`Artefact`, for the final name.
        details: as in :class:`Artefact`.
        card: text of a file beside it with the suffix ``.json``; empty for none.
    """

    prepare: Prepare
    dynamic: bool
    load_lines: str
    details: Mapping[str, Any]
    card: str = ""

    def run(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run the file once."""
        return self.prepare(args, kwargs)()
