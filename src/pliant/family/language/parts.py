"""Modules that are written down before the shapes that they get are known, and made when they are.

A part is what is left of an expression of the language once everything in it is decided. :meth:`Part.make` runs every
module on what the one before it gave, so that nobody has to say how many features come in.
"""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...checks import WrongShapeError, first_line, unknown
from ...space.placeholders import Placeholder, Symbolic, oneof


class Part(ABC):
    """A piece of a network, decided but not made."""

    @abstractmethod
    def make(self, x: Tensor, place: str) -> tuple[nn.Module, Tensor]:
        """Return the module for inputs like ``x`` (batch, ...), and what it gives on it in evaluation mode.

        Args:
            x: an example.
            place: where in the network this is, for errors; empty, or ends in ``" > "``.

        Raises:
            WrongShapeError: the module does not fit what it gets.
        """


class Kind:
    """A kind of basic modules: called with values for its hyperparameters, it gives a :class:`Basic`.

    Args:
        factory: see :func:`basic`.
        takes: see :func:`basic`.
        name: for choices and errors.
    """

    def __init__(self, factory: Callable[..., nn.Module], takes: tuple[str, ...], name: str) -> None:
        self.factory, self.takes, self.__name__ = factory, takes, name
        parameters = dict(inspect.signature(factory).parameters)
        self.shaped = parameters.pop("shape", None) is not None
        free = inspect.Parameter.VAR_KEYWORD
        self._open = any(each.kind is free for each in parameters.values())
        named = {name: each for name, each in parameters.items() if each.kind not in (free, each.VAR_POSITIONAL)}
        self._known = list(named)
        self._needed = [name for name, each in named.items() if each.default is each.empty]

    def __call__(self, **values: Any) -> Basic:
        """Return the module with these values, not made yet."""
        return Basic(self, values)

    def write(self, values: Mapping[str, Any]) -> Symbolic:
        """Return a basic module with ``values``, each a value, a list of them to choose from, or a placeholder.

        Raises:
            UnknownNameError: there is no such hyperparameter; offers the nearest.
            WrongShapeError: one that is needed is missing, or a list is empty.
        """
        for name, value in values.items():
            if name not in self._known and not self._open:
                raise unknown(f"hyperparameter of {self.__name__}", name, self._known)
            if isinstance(value, (list, range)) and not value:
                raise WrongShapeError(f"{self.__name__} needs at least one value for {name}, got {value!r}")
        missing = [name for name in self._needed if name not in values]
        if missing:
            raise WrongShapeError(
                f"{self.__name__} needs {', '.join(missing)}: a value, or a list of values to choose from"
            )
        return Symbolic(self, (), {name: chosen(value) for name, value in values.items()})


def chosen(value: Any, hint: str = "") -> Any:
    """Return a placeholder for one of a list of several values; the value of a list of one; anything else itself."""
    if not isinstance(value, (list, range)):
        return value
    return value[0] if len(value) == 1 else oneof(value, hint=hint)


@dataclass(frozen=True)
class Basic(Part):
    """A basic module with its hyperparameters."""

    kind: Kind
    values: Mapping[str, Any]

    def __repr__(self) -> str:
        return f"{self.kind.__name__}({', '.join(f'{name}={value!r}' for name, value in self.values.items())})"

    def make(self, x: Tensor, place: str) -> tuple[nn.Module, Tensor]:
        """Call the factory with the shape of what comes in, without the batch, and try what it makes."""
        here, shape, takes = f"{place}{self!r}", tuple(x.shape[1:]), self.kind.takes
        if takes and len(shape) != len(takes):
            raise WrongShapeError(
                f"{here} takes inputs of shape ({', '.join(takes)}), it gets {shape}: put it elsewhere, or a module "
                "before it that gives this shape"
            )
        try:
            module = self.kind.factory(**({"shape": shape} if self.kind.shaped else {}), **self.values)
        except Exception as error:
            raise WrongShapeError(f"{here} cannot be made for inputs of shape {shape}: {first_line(error)}") from error
        if not isinstance(module, nn.Module):
            raise WrongShapeError(f"the factory of {here} made {module!r}, expected an nn.Module")
        module.to(x.device).eval()
        try:
            with torch.no_grad():
                y = module(x)
        except Exception as error:
            raise WrongShapeError(f"{here} does not fit inputs of shape {shape}: {first_line(error)}") from error
        if not isinstance(y, Tensor) or y.shape[:1] != x.shape[:1] or not y.numel():
            what = f"a tensor of shape {tuple(y.shape)}" if isinstance(y, Tensor) else repr(y)
            raise WrongShapeError(
                f"{here} gives {what} for inputs of shape {tuple(x.shape)}, batch included: expected a tensor of as "
                "large a batch, with something in it"
            )
        return module, y


class Concat(Part):
    """Parts one after the other.

    Args:
        parts: see :func:`part`.
        word: for errors.
    """

    def __init__(self, *parts: Any, word: str = "Concat") -> None:
        self.parts, self.word = parts, word

    def make(self, x: Tensor, place: str) -> tuple[nn.Module, Tensor]:
        """Make each for what the one before it gives."""
        modules = []
        for at, each in enumerate(self.parts):
            module, x = part(each, place).make(x, f"{place}{self.word}[{at}] > ")
            modules.append(module)
        return nn.Sequential(*modules), x


@dataclass(frozen=True)
class Tied(Part):
    """One part so many times, with weights of its own each."""

    part: Any
    times: int

    def make(self, x: Tensor, place: str) -> tuple[nn.Module, Tensor]:
        """Make each for what the one before it gives."""
        return Concat(*[self.part] * self.times, word="Repeat").make(x, place)


@dataclass(frozen=True)
class Residual(Part):
    """A part whose inputs are added to its outputs."""

    part: Any

    def make(self, x: Tensor, place: str) -> tuple[nn.Module, Tensor]:
        """Make what is inside."""
        module, y = part(self.part, place).make(x, f"{place}Residual > ")
        return Added(module), added(x, y)


class Added(nn.Module):
    """Adds its input to what a module gives for it, see :func:`added`."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, x: Tensor) -> Tensor:
        """Return the sum."""
        return added(x, self.module(x))


def added(x: Tensor, y: Tensor) -> Tensor:
    """Return ``x + y``, (batch, ...) each.

    Where sizes differ, the smaller ones are filled up with zeros at the end; where even the numbers of dimensions do,
    both are flattened first.
    """
    if x.ndim != y.ndim:
        x, y = x.flatten(1), y.flatten(1)
    sizes = [max(a, b) for a, b in zip(x.shape[1:], y.shape[1:], strict=True)]
    return _filled(x, sizes) + _filled(y, sizes)


def _filled(x: Tensor, sizes: list[int]) -> Tensor:
    missing = [size - have for have, size in zip(x.shape[1:], sizes, strict=True)]
    return F.pad(x, [each for size in reversed(missing) for each in (0, size)]) if any(missing) else x


def part(value: Any, place: str = "") -> Part:
    """Return ``value`` as a part; a list, which repetitions give, is a chain.

    Raises:
        WrongShapeError: it is none.
    """
    if isinstance(value, Part):
        return value
    if isinstance(value, list):
        return Concat(*value, word="Repeat")
    raise WrongShapeError(f"{place}{value!r} is no module of the language: make it one with basic, see written")


def written(value: Any, by: str) -> Symbolic | Placeholder:
    """Return ``value`` if it is an expression of the language, for the combinator ``by``.

    Raises:
        WrongShapeError: it is none.
    """
    if isinstance(value, Placeholder):
        return value
    target = getattr(value, "target", None) if isinstance(value, Symbolic) else None
    if isinstance(target, Kind) or (isinstance(target, type) and issubclass(target, Part)):
        assert isinstance(value, Symbolic)
        return value
    raise WrongShapeError(
        f"{by} takes modules of the language, got {value!r}: wrap a class, or a function that makes a module, as "
        "basic(torch.nn.GELU)()"
    )
