"""Conditions of the form ``name <= number``, on choices or on measured values."""

from __future__ import annotations

import math
import operator
import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from ..checks import WrongShapeError, unknown

_HOLDS: dict[str, Callable[[float, float], bool]] = {
    "<=": operator.le,
    ">=": operator.ge,
    "==": operator.eq,
    "<": operator.lt,
    ">": operator.gt,
}
_PATTERN = re.compile(r"(?P<name>[^<>=!]*?)\s*(?P<op>[<>=!]+)\s*(?P<bound>[^<>=!]*)")
_EXAMPLE = "write it as 'name <= number', e.g. 'macs <= 1e6' or 'depth >= 2'"


@dataclass(frozen=True)
class Constraint:
    """A bound on one value.

    Args:
        name: the choice or the objective that it speaks about.
        op: one of ``<=``, ``>=``, ``==``, ``<``, ``>``.
        bound: the number on the right, in the unit of the value.

    Raises:
        WrongShapeError: if the operator is another, or the bound is not a number.
    """

    name: str
    op: str
    bound: float

    def __post_init__(self) -> None:
        if self.op not in _HOLDS:
            hint = {"=": "==", "=<": "<=", "=>": ">="}.get(self.op)
            instead = f"did you mean {hint!r}? " if hint else ""
            raise WrongShapeError(
                f"a constraint compares with one of {', '.join(_HOLDS)}, got {self.op!r}; {instead}{_EXAMPLE}"
            )
        if not self.name.strip():
            raise WrongShapeError(f"a constraint names a value on its left, got {self.name!r}; {_EXAMPLE}")
        if math.isnan(self.bound):
            raise WrongShapeError(
                f"the constraint on {self.name!r} has no bound: nan compares with nothing; {_EXAMPLE}"
            )

    @classmethod
    def parse(cls, text: str) -> Constraint:
        """Read a constraint such as ``"macs <= 1e6"``.

        Raises:
            WrongShapeError: if it does not read as a name, an operator and a number.
        """
        found = _PATTERN.fullmatch(text.strip())
        if found is None:
            raise WrongShapeError(f"cannot read the constraint {text!r}: {_EXAMPLE}")
        try:
            bound = float(found["bound"])
        except ValueError:
            raise WrongShapeError(
                f"cannot read the constraint {text!r}: {found['bound']!r} on the right is no number; {_EXAMPLE}"
            ) from None
        return cls(found["name"], found["op"], bound)

    def holds(self, values: Mapping[str, float]) -> bool:
        """Return whether ``values[name]`` keeps the bound; nan never does.

        Raises:
            UnknownNameError: if ``values`` has no such name.
        """
        return _HOLDS[self.op](self._value(values), self.bound)

    def violation(self, values: Mapping[str, float]) -> float:
        """Return 0 where it holds, else by how much it does not, relative to the bound (absolute if that is 0).

        Raises:
            UnknownNameError: if ``values`` has no such name.
        """
        value = self._value(values)
        if _HOLDS[self.op](value, self.bound):
            return 0.0
        if math.isnan(value) or math.isinf(self.bound):
            return math.inf
        # A strict bound met exactly has no excess, and still does not hold.
        return max(abs(value - self.bound) / (abs(self.bound) or 1.0), sys.float_info.epsilon)

    def _value(self, values: Mapping[str, float]) -> float:
        if self.name not in values:
            raise unknown("value", self.name, values)
        return float(values[self.name])

    def __str__(self) -> str:
        return f"{self.name} {self.op} {self.bound!r}"
