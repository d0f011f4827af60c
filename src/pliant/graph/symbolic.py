"""Integers that remember where they came from, and the expressions that they are made of."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from typing import Any

from .dims import Dim

# An integer (a constant), a term (the size of a tensor's dimension), the place of an attribute, or an operation on two.
Expr = Any

_OPERATIONS: dict[str, Callable[[int, int], int]] = {
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
    "//": operator.floordiv,
    "%": operator.mod,
}


class Attribute(tuple[Any, ...]):
    """The place of an integer: the module's path, the attribute's name, and the way to it where it is inside another.

    Steps of the way are keys of tuples, lists and dicts, names of an object's attributes, or parts of a function.
    """

    __slots__ = ()

    def __str__(self) -> str:
        path, name, *way = self
        inner = "".join(f"[{key!r}]" if kind == "item" else f".{key}" for kind, key in way)
        return f"{path}.{name}{inner}" if path else f"{name}{inner}"


class Sized(int):
    """An integer with the expression that it was computed by; what is not integer arithmetic forgets it."""

    expr: Expr
    notice: Callable[[Expr, Expr], None] | None

    def __new__(cls, value: int, expr: Expr, notice: Callable[[Expr, Expr], None] | None = None) -> Sized:
        """Make ``value`` carry its expression; ``notice`` hears of every other one that it was found equal to."""
        new = super().__new__(cls, value)
        new.expr, new.notice = expr, notice
        return new

    def _with(self, sign: str, left: Any, right: Any) -> Any:
        plain = _OPERATIONS[sign](int(left), int(right))
        return Sized(plain, (sign, expression(left), expression(right)), self.notice)

    def __add__(self, other: Any) -> Any:
        return self._with("+", self, other) if isinstance(other, int) else NotImplemented

    def __radd__(self, other: Any) -> Any:
        return self._with("+", other, self) if isinstance(other, int) else NotImplemented

    def __sub__(self, other: Any) -> Any:
        return self._with("-", self, other) if isinstance(other, int) else NotImplemented

    def __rsub__(self, other: Any) -> Any:
        return self._with("-", other, self) if isinstance(other, int) else NotImplemented

    def __mul__(self, other: Any) -> Any:
        return self._with("*", self, other) if isinstance(other, int) else NotImplemented

    def __rmul__(self, other: Any) -> Any:
        return self._with("*", other, self) if isinstance(other, int) else NotImplemented

    def __floordiv__(self, other: Any) -> Any:
        return self._with("//", self, other) if isinstance(other, int) else NotImplemented

    def __rfloordiv__(self, other: Any) -> Any:
        return self._with("//", other, self) if isinstance(other, int) else NotImplemented

    def __mod__(self, other: Any) -> Any:
        return self._with("%", self, other) if isinstance(other, int) else NotImplemented

    def __rmod__(self, other: Any) -> Any:
        return self._with("%", other, self) if isinstance(other, int) else NotImplemented

    def __neg__(self) -> Any:
        return self._with("-", 0, self)

    def __pow__(self, other: Any, modulo: Any = None) -> Any:
        plain = pow(int(self), other)
        return Scale(plain, self.expr, other) if isinstance(plain, float) else plain

    def __eq__(self, other: object) -> bool:
        same = int.__eq__(self, other) if isinstance(other, int) else False
        if same is True and isinstance(other, Sized) and self.notice is not None:
            self.notice(self.expr, other.expr)
        return same is True

    def __ne__(self, other: object) -> bool:
        return not self == other

    def __hash__(self) -> int:
        return int.__hash__(self)

    def __deepcopy__(self, memo: dict[int, Any]) -> Sized:
        return self

    def __reduce__(self) -> Any:
        return int, (int(self),)


class Scale(float):
    """A power of an integer that remembers, such as ``head_dim ** -0.5``."""

    base: Expr
    power: float

    def __new__(cls, value: float, base: Expr, power: float) -> Scale:
        """Make ``value`` carry what it is a power of."""
        new = super().__new__(cls, value)
        new.base, new.power = base, power
        return new

    def __deepcopy__(self, memo: dict[int, Any]) -> Scale:
        return self

    def __reduce__(self) -> Any:
        return float, (float(self),)


def expression(value: int) -> Expr:
    """Return the expression of an integer: itself where it is a plain one."""
    return value.expr if isinstance(value, Sized) else int(value)


def evaluate(expr: Expr, attributes: Mapping[Attribute, int | None], size: Callable[[Dim], int]) -> int | None:
    """Compute an expression for other sizes; None where an attribute in it is not known or a division fails."""
    if isinstance(expr, int):
        return expr
    if isinstance(expr, Dim):
        return size(expr)
    if isinstance(expr, Attribute):
        return attributes.get(expr)
    sign, left, right = expr
    a, b = evaluate(left, attributes, size), evaluate(right, attributes, size)
    if a is None or b is None or (b == 0 and sign in ("//", "%")):
        return None
    return _OPERATIONS[sign](a, b)


def attributes_in(expr: Expr) -> set[Attribute]:
    """Return the attributes that an expression reads."""
    if isinstance(expr, Attribute):
        return {expr}
    if isinstance(expr, tuple):
        return attributes_in(expr[1]) | attributes_in(expr[2])
    return set()
