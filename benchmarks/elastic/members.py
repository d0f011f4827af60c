"""The members that are compared: by size, and random ones."""

from __future__ import annotations

import random
from dataclasses import dataclass

from pliant.family.counts import macs_shares
from pliant.runs.build import build_family, default_choices
from pliant.space import Config
from pliant.tasks import Task

from .._members import with_macs

_MIDDLE = 1 / 4  # of the full network's multiply-accumulates


@dataclass(frozen=True)
class Members:
    """Configs by name (``largest``, ``middle``, ``smallest``, ``random 0`` …), and their shares of the full MACs."""

    configs: dict[str, Config]
    shares: dict[str, float]

    @property
    def sized(self) -> list[str]:
        """The names of those that were chosen by their size."""
        return [name for name in self.configs if not name.startswith("random")]

    @property
    def random(self) -> list[str]:
        """The names of the random ones."""
        return [name for name in self.configs if name.startswith("random")]


def compared(task: Task, count: int) -> Members:
    """Return the largest and smallest members, one of about a quarter of the MACs, and ``count`` random ones.

    The random ones are spread evenly over the range of MACs: of twenty draws for each, that nearest to its goal.
    """
    family = build_family(task, default_choices(), (), 0)
    space, share = family.space, macs_shares(family)
    (middle,) = with_macs(family, [_MIDDLE])
    configs = {"largest": space.largest(), "smallest": space.smallest(), "middle": middle}
    rng, low = random.Random(0), share(space.smallest())
    for at in range(count):
        goal = low + (at + 0.5) / count * (1 - low)
        draws = [family.canonical(space.sample(rng)) for _ in range(20)]
        configs[f"random {at}"] = min(draws, key=lambda config: abs(share(config) - goal))
    return Members(configs, {name: share(config) for name, config in configs.items()})
