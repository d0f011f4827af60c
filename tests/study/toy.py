"""A family without a network: enough for a search, and quick."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence

from torch import nn

from pliant.measure import Metric, Objective
from pliant.space import Choice, Config, Space


class Member(nn.Module):
    """Carries its config."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config


class Toy:
    """What a search needs of a family; ``built`` lists what it was asked for, in order."""

    def __init__(self, choices: int = 6, options: int = 5) -> None:
        self.space = Space([Choice(f"layer.{index}", tuple(range(1, options + 1))) for index in range(choices)])
        self.built: list[Config] = []

    def ready(self, config: Config) -> Member:
        self.built.append(config)
        return Member(config)


def widths(member: nn.Module) -> list[float]:
    assert isinstance(member, Member)
    return [float(member.config[name]) for name in sorted(member.config)]  # type: ignore[arg-type]


def cost(member: nn.Module) -> float:
    """Neighbouring layers multiply, as in a network."""
    sizes = widths(member)
    return sum(a * b for a, b in itertools.pairwise(sizes)) + sizes[0]


def error(member: nn.Module) -> float:
    """Falls with size, unevenly, with a penalty for bottlenecks: a front worth searching for."""
    sizes = widths(member)
    gain = sum(math.log(size) * (1 + index % 3) for index, size in enumerate(sizes))
    return 20 - gain + 0.5 * sum(abs(a - b) for a, b in itertools.pairwise(sizes))


def objectives(first: Callable[[nn.Module], float] = error) -> Sequence[Objective]:
    return [Metric("error", first, unit="%"), Metric("cost", cost)]


def hypervolume(points: Sequence[tuple[float, float]], reference: tuple[float, float]) -> float:
    """The area that ``points``, both coordinates minimised, dominate up to ``reference``."""
    area, height = 0.0, reference[1]
    for x, y in sorted(points):
        if x < reference[0] and y < height:
            area += (reference[0] - x) * (height - y)
            height = y
    return area
