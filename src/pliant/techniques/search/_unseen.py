"""Configs that were not proposed before."""

from __future__ import annotations

from random import Random

from ...space import Config, Space

_TRIES = 100


class Unseen:
    """The configs of a space that are left."""

    def __init__(self, space: Space) -> None:
        self._space = space
        self._seen: set[Config] = set()

    def __contains__(self, config: Config) -> bool:
        return config not in self._seen

    def add(self, config: Config) -> None:
        """Take ``config`` out."""
        self._seen.add(config)

    def draw(self, rng: Random) -> Config | None:
        """Return a config drawn evenly from those left, or ``None`` when there are none; it stays until added.

        A draw is tried a hundred times: where all are known, nearly the whole space is, and is small enough to list.
        """
        if len(self._seen) >= self._space.size:
            return None
        for _ in range(_TRIES):
            config = self._space.sample(rng)
            if config not in self._seen:
                return config
        return rng.choice([config for config in self._space.enumerate() if config not in self._seen])
