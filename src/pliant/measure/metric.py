"""An objective from the user's own function."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor, nn

from ..checks import WrongShapeError
from .machine import machine
from .measurement import Measurement
from .objective import Direction, Objective


@dataclass(frozen=True, eq=False)
class Metric(Objective):
    """What ``function(member)`` returns: a task's error, accuracy, perplexity …

    Attributes:
        name: the objective's name.
        function: takes the member in evaluation mode, returns a number (a tensor or an array of one element will do).
        direction: ``"min"`` or ``"max"``.
        unit: the unit of the number.

    Raises:
        WrongShapeError: the direction is neither, or (on measuring) the function returned something else.
    """

    name: str
    function: Callable[[nn.Module], Any]
    direction: Direction = "min"
    unit: str = ""

    def __post_init__(self) -> None:
        if self.direction not in ("min", "max"):
            raise WrongShapeError(f"direction of metric {self.name!r} is 'min' or 'max', not {self.direction!r}")

    def measure(self, member: nn.Module) -> Measurement:
        """Measure ``member``; see the class."""
        result = self.function(member)
        try:
            if isinstance(result, str):
                raise TypeError("a text")
            value = float(result.detach().item() if isinstance(result, Tensor) else _one(result))
        except (TypeError, ValueError, RuntimeError, OverflowError) as error:
            raise WrongShapeError(
                f"metric {self.name!r} expected one number from its function, got {_described(result)}: "
                "return a float, or a tensor or an array of one element"
            ) from error
        return Measurement(value, self.unit, details={"machine": machine()})


def _described(result: Any) -> str:
    shape = getattr(result, "shape", None)
    return type(result).__name__ + (f" of shape {tuple(shape)}" if shape else "")


def _one(result: Any) -> Any:
    """Return the element of an array of one, which ``float`` takes no more."""
    return result.item() if isinstance(result, np.ndarray) else result
