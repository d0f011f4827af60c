"""The base of every objective."""

from __future__ import annotations

import dataclasses
import logging
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, Literal

from torch import nn

from .inference import tensors_of
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

    def settings(self) -> dict[str, Any]:
        """Return how it measures, as JSON knows it: values that were measured otherwise do not compare with its own.

        By default, the plain fields of a dataclass, and the shapes of its example arguments. A study keeps them, and is
        gone on with by objectives of the same settings only. What a user's function does is not seen.
        """
        if not dataclasses.is_dataclass(self):
            return {}
        found: dict[str, Any] = {}
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if field.name in ("example_args", "example_kwargs") and value is not None:
                found[field.name] = [list(tensor.shape) for tensor in tensors_of(value)]
            elif field.init and field.name not in _TOLD and isinstance(value, (bool, int, float, str)):
                found[field.name] = value
        return found


# A study keeps the first three beside the settings; more repeats narrow the spread of a value, and move no median.
_TOLD = ("name", "direction", "unit", "repeats")


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
