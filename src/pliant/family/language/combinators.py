"""The combinators of the language, and what makes a program of an expression."""
# ruff: noqa: N802 - the names of the paper

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

from torch import Tensor, nn

from ...checks import WrongShapeError
from ...space.placeholders import Placeholder, Symbolic, manyof, oneof
from ...space.program import Program
from . import parts
from .modules import Empty
from .parts import written

Expression: TypeAlias = Symbolic | Placeholder
"""A module whose hyperparameters and alternatives may be undecided."""


def Concat(*modules: Expression) -> Symbolic:
    """Return the modules one after the other.

    Raises:
        WrongShapeError: there are none, or one is no module of the language.
    """
    return Symbolic(parts.Concat, _several(modules, "Concat"), {})


def Or(*modules: Expression, hint: str = "") -> Placeholder:
    """Return one of the modules, a choice; those inside the others do not matter then.

    Raises:
        WrongShapeError: there are none, or one is no module of the language.
    """
    return oneof(_several(modules, "Or"), hint=hint)


def Optional(module: Expression, hint: str = "") -> Placeholder:
    """Return the module or nothing, a choice.

    Raises:
        WrongShapeError: it is no module of the language.
    """
    return oneof([Empty(), written(module, "Optional")], hint=hint)


def Repeat(module: Expression, times: int | Sequence[int], tied: bool = False, hint: str = "") -> Expression:
    """Return the module so many times in a row, a choice where there are several numbers.

    Args:
        module: what is repeated.
        times: one or more numbers of at least 1.
        tied: whether all have the same hyperparameters, rather than each its own. Weights are not shared.
        hint: of the choice, see :func:`pliant.oneof`.

    Raises:
        WrongShapeError: a number is below 1 or comes twice, or it is no module of the language.
    """
    numbers = [times] if isinstance(times, int) else list(times)
    whole = all(isinstance(each, int) and not isinstance(each, bool) and each >= 1 for each in numbers)
    if not numbers or not whole or len(set(numbers)) < len(numbers):
        raise WrongShapeError(
            f"Repeat takes different whole numbers of at least 1, such as [1, 2, 4], got {times!r}; for none at all "
            "write Optional(Repeat(...))"
        )
    each = written(module, "Repeat")
    if tied:
        return Symbolic(parts.Tied, (), {"part": each, "times": parts.chosen(numbers, hint)})
    if len(numbers) == 1:
        return Symbolic(parts.Concat, (each,) * numbers[0], {})
    picks = tuple(tuple(range(number)) for number in numbers)
    rising = numbers == sorted(numbers)
    return Placeholder((each,) * max(numbers), picks, False, rising, hint, tuple(numbers))


def Residual(module: Expression) -> Symbolic:
    """Return the module with its input added to its output; zeros are added where the output is larger, or smaller.

    Raises:
        WrongShapeError: it is no module of the language.
    """
    return Symbolic(parts.Residual, (written(module, "Residual"),), {})


def MaybeSwap(first: Expression, second: Expression, hint: str = "") -> Placeholder:
    """Return two modules one after the other, in either order, a choice.

    Raises:
        WrongShapeError: one is no module of the language.
    """
    return manyof(2, _several((first, second), "MaybeSwap"), ordered=True, hint=hint)


def architectures(
    expression: Expression, example: Tensor | tuple[Tensor], constraints: tuple[str, ...] = ()
) -> Program:
    """Return the program of all networks that an expression of the language stands for.

    Its ``size`` is the number of networks, its ``space`` what a searcher searches, and ``build(config)`` makes a
    network in training mode, whose weights torch's random numbers decide.

    Args:
        expression: of this module's combinators.
        example: what comes in, (batch, ...), or a tuple of that; shapes and the device are taken from it.
        constraints: on choices of numbers, see :class:`pliant.Program`.

    Raises:
        WrongShapeError: it is no expression of the language, nothing in it varies, or the example is no tensor.
    """
    inputs = example if isinstance(example, tuple) else (example,)
    if len(inputs) != 1 or not isinstance(inputs[0], Tensor) or inputs[0].ndim < 2:
        raise WrongShapeError(f"expected an example of the input, one tensor of shape (batch, ...), got {example!r}")
    top = written(expression, "architectures")
    modules = top.args if isinstance(top, Symbolic) and top.target is parts.Concat else (top,)
    return Program(Symbolic(_Network(inputs[0]), tuple(modules), {}), constraints)


class _Network:
    """Makes the network of decided modules."""

    __name__ = "network"

    def __init__(self, example: Tensor) -> None:
        self._example = example

    def __call__(self, *modules: parts.Part) -> nn.Module:
        return parts.Concat(*modules).make(self._example, "")[0].train()


def _several(modules: tuple[Expression, ...], by: str) -> tuple[Expression, ...]:
    if not modules:
        raise WrongShapeError(f"{by} takes at least one module, such as {by}(Affine(out=[64, 128]), Relu()), got none")
    return tuple(written(each, by) for each in modules)
