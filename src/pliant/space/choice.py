"""One named decision with a finite list of options."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias, Union

from ..checks import CorruptFileError, UnknownNameError, WrongShapeError, nearest

Option: TypeAlias = Union[bool, int, float, str, "tuple[Option, ...]"]


def as_option(value: object, where: str) -> Option:
    """Return ``value`` as an option; lists become tuples, because JSON knows no tuples.

    Args:
        value: what a user or a JSON file gave.
        where: the choice that it belongs to, for the message.

    Raises:
        WrongShapeError: if it is not a bool, int, finite float, str or a tuple of such.
    """
    if type(value).__module__ == "numpy" and getattr(value, "ndim", None) == 0:
        value = value.item()  # type: ignore[attr-defined]
    if isinstance(value, (list, tuple)):
        return tuple(as_option(item, where) for item in value)
    if isinstance(value, float) and not math.isfinite(value):
        raise WrongShapeError(f"{where}: options are finite numbers, got {value!r}; leave it out")
    for kind in (bool, int, float, str):
        if isinstance(value, kind):
            return kind(value)  # a member of an enumeration becomes what it stands for
    raise WrongShapeError(
        f"{where}: an option is a bool, int, float, str or a tuple of such, got {value!r} of type "
        f"{type(value).__name__}; use its name or its size instead"
    )


def same(left: Option, right: Option) -> bool:
    """Return whether two options are the same; unlike ``==``, ``True`` is not ``1`` (but ``2.0`` is ``2``)."""
    if isinstance(left, tuple) and isinstance(right, tuple):
        return len(left) == len(right) and all(map(same, left, right))
    return isinstance(left, bool) == isinstance(right, bool) and left == right


@dataclass(frozen=True)
class Choice:
    """A decision: its name and what it can be, from the smallest network to the largest.

    Args:
        name: for instance ``"layers.3.mlp.width"``; unique in its space.
        options: one or more different options. The last one is that of the full network.
        ordered: whether neighbours in ``options`` are alike. If not, every option is next to every other.

    Raises:
        WrongShapeError: if the name or the options are empty, or an option appears twice.
    """

    name: str
    options: tuple[Option, ...]
    ordered: bool = True

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not self.name.strip():
            raise WrongShapeError(f"a choice needs a name such as 'layers.3.mlp.width', got {self.name!r}")
        if isinstance(self.options, str) or not isinstance(self.options, Sequence):
            raise WrongShapeError(
                f"choice {self.name!r}: options are a tuple such as (128, 256, 512), got {self.options!r}"
            )
        options = tuple(as_option(option, f"choice {self.name!r}") for option in self.options)
        if not options:
            raise WrongShapeError(f"choice {self.name!r} has no options; give at least one, e.g. (128, 256)")
        for index, option in enumerate(options):
            if option in options[:index]:
                raise WrongShapeError(f"choice {self.name!r} has the option {option!r} twice; keep one of them")
        object.__setattr__(self, "options", options)

    @property
    def largest(self) -> Option:
        """The option of the full network."""
        return self.options[-1]

    @property
    def smallest(self) -> Option:
        """The option of the smallest network."""
        return self.options[0]

    def index(self, option: object) -> int:
        """Return the position of ``option`` in ``options``.

        Raises:
            UnknownNameError: if it is not one of them; the message offers the nearest.
        """
        try:
            wanted = as_option(option, f"choice {self.name!r}")
        except WrongShapeError as error:
            raise UnknownNameError(f"{error} (options: {self._shown()})") from None
        for position, known in enumerate(self.options):
            if same(wanted, known):
                return position
        raise UnknownNameError(
            f"choice {self.name!r} has no option {wanted!r}{self._nearest(wanted)} (options: {self._shown()})"
        )

    def _nearest(self, wanted: Option) -> str:
        numbers = [known for known in self.options if isinstance(known, (int, float)) and not isinstance(known, bool)]
        if isinstance(wanted, (int, float)) and not isinstance(wanted, bool) and numbers:
            best = min(numbers, key=lambda known: abs(known - wanted))
            return f"; did you mean {best!r}?"
        by_text = {str(known): known for known in self.options}
        hint = nearest(str(wanted), by_text)
        for text, known in by_text.items():  # say it as it must be written: a string in quotes, a number without
            if hint == nearest(text, [text]):
                return f"; did you mean {known!r}?"
        return hint

    def _shown(self) -> str:
        shown = ", ".join(map(repr, self.options[:12]))
        return shown if len(self.options) <= 12 else f"{shown}, … ({len(self.options)} in all)"

    def to_dict(self) -> dict[str, Any]:
        """Return what JSON needs to make it again."""
        return {"name": self.name, "options": list(self.options), "ordered": self.ordered}

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> Choice:
        """Make a choice from :meth:`to_dict`'s record.

        Raises:
            CorruptFileError: if a key is missing or has another type.
        """
        try:
            return cls(record["name"], tuple(record["options"]), bool(record["ordered"]))
        except (KeyError, TypeError) as error:
            raise CorruptFileError(f"expected the record of a choice with name, options and ordered: {error}") from None
