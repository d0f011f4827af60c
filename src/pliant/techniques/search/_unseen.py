"""Configs that were not proposed before."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from random import Random

from ...space import Config, Problem
from ._arrays import limits

_TRIES = 100
_LISTABLE = 200_000
"""Configs of a space that is searched through to the last one; in a larger one, draws alone have to find them."""


class Unseen:
    """The configs of a problem that are left; those that stand for one network are one."""

    def __init__(self, problem: Problem) -> None:
        self._problem = problem
        self._seen: set[Config] = set()
        self._same: dict[Config, Config] = {}  # a canonical form may take a millisecond, and is asked for often

    def __contains__(self, config: Config) -> bool:
        return self.same([config])[0] not in self._seen

    def add(self, config: Config) -> None:
        """Take ``config``, and all that are the same network, out."""
        self._seen.update(self.same([config]))

    def same(self, configs: Sequence[Config]) -> list[Config]:
        """Return for each config the one that stands for its network."""
        if self._problem.canonical is None:
            return list(configs)
        new = [config for config in dict.fromkeys(configs) if config not in self._same]
        self._same.update(zip(new, self._problem.same(new), strict=True))
        return [self._same[config] for config in configs]

    def of(self, configs: Iterable[Config]) -> list[Config]:
        """Return those of ``configs`` that are left, in their order and each network once."""
        given = list(configs)
        found: dict[Config, Config] = {}
        for config, same in zip(given, self.same(given), strict=True):
            if same not in self._seen:
                found.setdefault(same, config)
        return list(found.values())

    def allowed(self, configs: Sequence[Config]) -> list[Config]:
        """Return those of ``configs`` that keep the constraints that need no measurement."""
        if self._problem.violation is None or not configs:
            return list(configs)
        broken = limits(self._problem, self._problem.space.indices(configs))
        return [config for config, by in zip(configs, broken, strict=True) if by == 0]

    def draw(self, rng: Random) -> Config | None:
        """Return a config drawn evenly from those left, or ``None`` when there are none; it stays until added.

        One that keeps the constraints that need no measurement goes before one that breaks them. A draw is tried a
        hundred times: where all are known, nearly the whole space is, and is listed if that is feasible. A huge space
        of few different networks counts as finished then.
        """
        space = self._problem.space
        if len(self._seen) >= space.size:
            return None
        found: list[Config] = []
        for tries in (1, _TRIES - 1):  # most first draws are new, and one call for many is cheaper than many calls
            left = self.of(space.sample(rng) for _ in range(tries))
            kept = self.allowed(left)
            if kept:
                return kept[0]
            found += left
        listed = self.of(space.enumerate()) if space.size <= _LISTABLE else []
        left = self.allowed(listed) or listed
        return rng.choice(left) if left else next(iter(found), None)
