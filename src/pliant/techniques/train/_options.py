"""Parts of a space: the options that its constraints allow, and members that are nested in each other."""

from __future__ import annotations

from collections.abc import Mapping
from fnmatch import fnmatchcase
from functools import lru_cache
from random import Random

from ...space.choice import Option
from ...space.config import Config
from ...space.space import Space

Options = Mapping[str, tuple[Option, ...]]


class _Same:
    """A space as itself: comparing spaces by what they hold takes longer than what is cached for them."""

    __slots__ = ("space",)

    def __init__(self, space: Space) -> None:
        self.space = space

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Same) and other.space is self.space

    def __hash__(self) -> int:
        return id(self.space)


def allowed_options(space: Space) -> Options:
    """Return for every choice the options that the constraints allow, ascending; a dict to keep as it is."""
    return _allowed(_Same(space))


@lru_cache(maxsize=8)
def _allowed(same: _Same) -> Options:
    rows = zip(same.space.choices, same.space.allowed(), strict=True)
    return {choice.name: tuple(choice.options[at] for at in allowed) for choice, allowed in rows}


def draw(options: Options, rng: Random) -> Config:
    """Return a config of ``options``, each as likely as any other."""
    return Config({name: rng.choice(few) for name, few in options.items()})


def nested(space: Space, pattern: str = "*", every: int = 1) -> list[Config]:
    """Return members of which each holds the one before it, the largest last.

    All choices whose name matches ``pattern`` go from their smallest option to their largest in step; one of fewer
    options stays at some for longer. The others are at their largest.

    Args:
        space: the space.
        pattern: which choices shrink, as file names match.
        every: keep the largest member and every ``every``-th below it.
    """
    return list(_nested(_Same(space), pattern, every))


@lru_cache(maxsize=8)
def _nested(same: _Same, pattern: str, every: int) -> tuple[Config, ...]:
    options = allowed_options(same.space)
    shrinking = {name: few for name, few in options.items() if fnmatchcase(name, pattern) and len(few) > 1}
    levels = max((len(few) for few in shrinking.values()), default=1)
    found = []
    for level in range(levels - 1, -1, -every):
        part = {n: few[(2 * level * (len(few) - 1) + levels - 1) // (2 * levels - 2)] for n, few in shrinking.items()}
        found.append(same.space.complete(part))
    return tuple(found[::-1])
