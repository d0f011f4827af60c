"""One option per choice: what picks a member of a family."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping

from ..checks import CorruptFileError, WrongShapeError, unknown
from .choice import Option, as_option


class Config(Mapping[str, Option]):
    """An immutable mapping from the name of a choice to its option.

    Two configs are equal if they hold the same options under the same names, in whatever order. A config by itself
    does not know its space: ``space.check(mapping)`` makes one that is complete and valid.

    Args:
        options: choice name to option; lists are taken as tuples.

    Raises:
        WrongShapeError: if a name is not a string, or a value cannot be an option.
    """

    __slots__ = ("_options", "_text", "checked_by")

    def __init__(self, options: Mapping[str, Option]) -> None:
        for name in options:
            if not isinstance(name, str):
                raise WrongShapeError(f"a config maps the names of choices to options, got the name {name!r}")
        made = {name: as_option(value, f"choice {name!r}") for name, value in options.items()}
        self._options = made
        self._text = json.dumps(made, sort_keys=True, separators=(",", ":"))
        self.checked_by: object = None  # the space that has found it valid: it need not look again

    def __getitem__(self, name: str) -> Option:
        try:
            return self._options[name]
        except KeyError:
            raise unknown("choice", name, self._options) from None

    def __contains__(self, name: object) -> bool:
        return name in self._options

    def __iter__(self) -> Iterator[str]:
        return iter(self._options)

    def __len__(self) -> int:
        return len(self._options)

    def __eq__(self, other: object) -> bool:
        if isinstance(other, Config):
            return self._text == other._text
        if isinstance(other, Mapping):
            try:
                return self == Config(other)
            except WrongShapeError:
                return False
        return NotImplemented

    def __hash__(self) -> int:
        return hash(self._text)

    def __repr__(self) -> str:
        return f"Config({self._options!r})"

    def __reduce__(self) -> tuple[type[Config], tuple[dict[str, Option]]]:  # copies and worker processes
        return Config, (self._options,)

    @property
    def key(self) -> str:
        """Sixteen hexadecimal digits that name this config in files and tables; equal for equal configs, always."""
        return hashlib.sha256(self._text.encode()).hexdigest()[:16]

    def to_json(self) -> str:
        """Return it as one line of JSON, sorted by name: equal configs give equal text."""
        return self._text

    @classmethod
    def from_json(cls, text: str) -> Config:
        """Make a config from :meth:`to_json`'s text.

        Raises:
            CorruptFileError: if the text is not such an object.
        """
        try:
            found = json.loads(text)
        except json.JSONDecodeError as error:
            raise CorruptFileError(f"expected a config as a JSON object, got text that is not JSON: {error}") from None
        if not isinstance(found, dict):
            raise CorruptFileError(f"expected a config as a JSON object of choice to option, got {text[:80]!r}")
        try:
            return cls(found)
        except WrongShapeError as error:
            raise CorruptFileError(f"expected a config as a JSON object of choice to option: {error}") from None
