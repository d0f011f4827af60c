"""The base of every objective."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, Literal

from torch import nn

from .measurement import Measurement

if TYPE_CHECKING:
    from ..space.problem import Count

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

    def count(self, family: Any) -> Count | None:
        """Return a function that computes this objective for members of ``family`` without building them.

        It takes option indices (n, choices) of the family's space and returns :meth:`measure`'s values (n,), in this
        objective's own direction and unit, exactly. Searchers use it to know costs beforehand; what is stored and
        reported is still measured. ``None``, which is the default, where there is no such function.
        """
        return None


def counted(family: Any, what: str, objective: Objective) -> Count | None:
    """Return ``family.counts.<what>`` where there are counts, and they agree with what ``objective`` measures."""
    counts = getattr(family, "counts", None)
    if counts is None:
        return None
    try:
        found: Count = getattr(counts, what)(lambda member: objective.measure(member).value)
    except LookupError as reason:
        logging.getLogger("pliant.measure").info("%s is measured, not counted: %s", objective.name, reason)
        return None
    return found
