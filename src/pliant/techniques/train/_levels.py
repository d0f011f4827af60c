"""Members of a wanted cost: the range of costs cut into levels, and draws from one of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from random import Random

from ...space.config import Config
from ...space.space import Space
from ._options import Options, allowed_options, draw

Cost = Callable[[Config], float]
_TRIES = 8


@dataclass(frozen=True)
class Levels:
    """The costs from that of the smallest member to that of the largest, cut into ``count`` equal parts."""

    low: float
    high: float
    count: int

    @classmethod
    def of(cls, space: Space, cost: Cost, count: int) -> Levels:
        """Return the levels of a space; one alone where its ends cost the same."""
        low, high = cost(space.smallest()), cost(space.largest())
        return cls(low, high, count if high > low else 1)

    @property
    def width(self) -> float:
        """How much the costs within one level differ at most."""
        return (self.high - self.low) / self.count

    def bounds(self, level: int) -> tuple[float, float]:
        """Return the least and the greatest cost of a level."""
        top = self.high if level + 1 >= self.count else self.low + (level + 1) * self.width
        return self.low + level * self.width, top

    def level(self, cost: float) -> int:
        """Return the level that a cost belongs to."""
        if self.count == 1:
            return 0
        return min(max(int((cost - self.low) / self.width), 0), self.count - 1)


def draw_between(space: Space, cost: Cost, bounds: tuple[float, float], rng: Random,
                 least: Config | None = None) -> Config | None:  # fmt: skip
    """Return a random member whose cost is within ``bounds``, or None where none was found.

    A member is drawn evenly and then changed, one random choice at a time by one option, up while it costs too little
    and down while it costs too much.

    Args:
        space: the space.
        cost: of a member; larger options cost more.
        bounds: the least and the greatest cost, both included.
        rng: where draws come from.
        least: no choice is smaller than here.
    """
    options = allowed_options(space)
    if least is not None:
        options = {name: few[few.index(least[name]) :] for name, few in options.items()}
    for _ in range(_TRIES):
        found = _approach(options, cost, bounds, rng)
        if found is not None:
            return found
    return None


def _approach(options: Options, cost: Cost, bounds: tuple[float, float], rng: Random) -> Config | None:
    config = draw(options, rng)
    for _ in range(2 * sum(len(few) - 1 for few in options.values()) + 1):
        now = cost(config)
        if bounds[0] <= now <= bounds[1]:
            return config
        move = 1 if now < bounds[0] else -1
        movable = [name for name, few in options.items() if 0 <= few.index(config[name]) + move < len(few)]
        if not movable:
            return None
        name = rng.choice(movable)
        config = Config({**config, name: options[name][options[name].index(config[name]) + move]})
    return None
