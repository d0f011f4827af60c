"""Resource-balanced sampling: members whose average number of bits moves evenly over the whole range.

Drawn layer by layer, each number of bits as likely as any other, the average over the layers of a deep network is
hardly ever far from the middle: members near either end get next to no training, which hurts most where each number of
bits has weights of its own. So the mean that is drawn for moves along a triangular wave, from the most bits to the
fewest and back. Nothing about it is learnt. The paper's claim: this trains members of all sizes better than even draws
do, in the middle of the range too.

This implementation differs. The paper says what the mean is in each step; here each layer's option is drawn with odds
that are exponential in it, the draw of that mean with the most entropy, and the paper's text may say otherwise: it is
known from the abstract and an account of it. The average is that of the layers, whatever their sizes, as published.
Any choices of numbers may be balanced so, not bits alone; where a choice does not allow a mean, the nearest that it
allows counts.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import lru_cache
from typing import ClassVar

from ...checks import UnknownNameError, WrongShapeError
from ...space.config import Config
from ...technique import Paper, Recipe, Turn
from ._fields import check_counts, check_positive, check_shares
from ._learning import learn_led
from ._options import allowed_options


@dataclass(frozen=True)
class BalancedBits(Recipe):
    """Train one member per step, its average of some choices drawn from the whole range evenly.

    Attributes:
        pattern: which choices are averaged, as file names match; the others are drawn evenly.
        period: in how many steps the mean goes from the largest to the smallest average and back.
        lead: how much of the loss is distillation from the run's own teacher, where it has one.
        temperature: softens that teacher's outputs.
    """

    pattern: str = "*.bits"
    period: int = 8000
    lead: float = 0.5
    temperature: float = 1.0

    paper: ClassVar[Paper | None] = Paper(
        "Yi, Xu, Chang, Tang, Meng, Zhang, Li",
        2024,
        "One QuantLLM for ALL: Fine-tuning Quantized LLMs Once for Efficient Deployments",
        "2405.20202",
    )
    gives: ClassVar[frozenset[str]] = frozenset({"trained members"})

    def __post_init__(self) -> None:
        """Check the fields."""
        check_counts(self, 2, "period")
        check_shares(self, "lead")
        check_positive(self, "temperature")

    def step(self, turn: Turn) -> None:
        """Let one member learn whose average is expected to be where the wave is."""
        learn_led(turn, self.draw(turn), self.lead, self.temperature)

    def wave(self, step: int) -> float:
        """Return where the mean is in a step: 1 for the largest average, 0 for the smallest."""
        return abs(2 * (step % self.period) / self.period - 1)

    def draw(self, turn: Turn) -> Config:
        """Return the member of a step.

        Raises:
            UnknownNameError: no choice matches the pattern.
            WrongShapeError: one that does has options that are no numbers.
        """
        options = allowed_options(turn.space)
        averaged = {name: few for name, few in options.items() if fnmatchcase(name, self.pattern)}
        if not averaged and options:
            raise UnknownNameError(
                f"no choice matches BalancedBits.pattern {self.pattern!r}; the space has {', '.join(list(options)[:6])}"
            )
        numbers = {name: tuple(_number(name, option) for option in few) for name, few in averaged.items()}
        count = max(1, len(numbers))
        low = sum(min(row) for row in numbers.values()) / count
        high = sum(max(row) for row in numbers.values()) / count
        mean, found = low + (high - low) * self.wave(turn.step), {}
        for name, few in options.items():
            odds = tilted(numbers[name], mean) if name in numbers else [1.0] * len(few)
            found[name] = turn.rng.choices(few, odds)[0]
        return turn.space.check(found)


@lru_cache(maxsize=64)
def tilted(numbers: tuple[float, ...], mean: float) -> list[float]:
    """Return the probabilities of ``numbers`` with the most entropy among those of the wanted mean.

    They are exponential in the numbers. A mean outside of their range stands for the end that it is nearest to.
    """
    low, high = min(numbers), max(numbers)
    if mean <= low or mean >= high:
        end = low if mean <= low else high
        return [float(number == end) for number in numbers]
    steep = [-1e4 / (high - low), 1e4 / (high - low)]
    for _ in range(60):  # the mean grows with the slope
        middle = sum(steep) / 2
        odds = _exponential(numbers, middle)
        steep[int(sum(p * n for p, n in zip(odds, numbers, strict=True)) > mean)] = middle
    return _exponential(numbers, sum(steep) / 2)


def _exponential(numbers: tuple[float, ...], slope: float) -> list[float]:
    top = max(slope * number for number in numbers)
    raw = [math.exp(slope * number - top) for number in numbers]
    whole = sum(raw)
    return [value / whole for value in raw]


def _number(name: str, option: object) -> float:
    if isinstance(option, bool) or not isinstance(option, (int, float)):
        raise WrongShapeError(f"BalancedBits averages numbers; choice {name!r} has the option {option!r}")
    return float(option)
