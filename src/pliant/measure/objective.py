"""The base of every objective."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Literal

from torch import nn

from .measurement import Measurement

Direction = Literal["min", "max"]


class Objective(ABC):
    """Something to minimise or maximise over the members of a family.

    Attributes:
        name: a short word, unique in a study; constraints speak about it (``"macs <= 1e6"``).
        direction: ``"min"`` or ``"max"``.
        unit: the unit of :meth:`measure`'s value.
    """

    name: str
    direction: Direction = "min"
    unit: str = ""

    @abstractmethod
    def measure(self, member: nn.Module) -> Measurement:
        """Measure ``member``, leaving it as it was."""
