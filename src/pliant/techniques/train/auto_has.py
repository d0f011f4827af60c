"""AutoHAS: a controller learns which members and which learning rates are good while their shared weights train.

Two things alternate in each step. A member and a learning rate are drawn from the controller, and an optimizer step
with them is taken on half of the batch, in temporary weights alone; the loss on the other half, which that step has not
seen, tells how good both are, and the controller's probabilities follow (REINFORCE with a moving baseline). Then the
shared weights learn for good: another member is drawn, and the learning rate is what the controller thinks of it by
now, a mixture of all that it may choose from. Learning rates are continuous, so they are mixtures of a few fixed ones
(a basis); members' options are choices. The paper's claim: searching both at once gains up to 0.8 points on ImageNet
over well-tuned ResNets and EfficientNets, and up to 11 over ill-tuned models, at a tenth of the compute of searches
that train each.

This implementation differs. It was written from the paper's abstract and introduction. The hyperparameter is the factor
of the run's learning rate, mixed by the geometric mean, as rates differ in magnitude; weight decay and the like belong
to the optimizer, which is the user's. The reward is the negative loss and not the accuracy, which a recipe does not
know; it is compared with a moving average, in units of a moving spread, and clipped, so that a rate that spoils the
weights counts as bad and not as infinitely bad. The controller has one vector of logits for each choice, all
independent, and learns for some trials before the first training step.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any, ClassVar

from ...checks import WrongShapeError
from ...space.config import Config
from ...space.space import Space
from ...technique import Paper, Recipe, Turn
from ._fields import check_counts, check_positive, check_shares, refuse
from ._learning import learn_led
from ._options import Options, allowed_options

RATE = "learning rate"
_LOGITS, _MEAN, _SPREAD = "logits", "mean", "spread"
_CLIP = 3.0  # spreads by which a reward can differ from the baseline, at most

Logits = dict[str, list[float]]


@dataclass(frozen=True)
class AutoHas(Recipe):
    """Search members and the learning rate while one set of weights trains.

    What it found is in the memory of the run: :func:`chosen` reads it.

    Attributes:
        rates: factors of the run's learning rate that are mixed.
        speed: how far the controller's logits move for a reward one spread above the baseline.
        memory: how much of the baseline stays when a reward comes.
        lead: how much of a member's loss is distillation from the run's own teacher, where it has one.
        ahead: trials before the first training step, so that it is not taken at a rate of which nothing is known.
    """

    rates: tuple[float, ...] = (0.3, 1.0, 3.0)
    speed: float = 0.1
    memory: float = 0.9
    lead: float = 0.5
    ahead: int = 20

    paper: ClassVar[Paper | None] = Paper(
        "Dong, Tan, Yu, Peng, Gabrys, Le",
        2020,
        "AutoHAS: Efficient Hyperparameter and Architecture Search",
        "2006.03656",
    )
    gives: ClassVar[frozenset[str]] = frozenset({"trained members"})

    def __post_init__(self) -> None:
        """Check the fields."""
        check_positive(self, "speed")
        check_counts(self, 0, "ahead")
        check_shares(self, "memory", "lead")
        rates = tuple(self.rates)
        if not rates or len(set(rates)) != len(rates) or not all(0 < rate < math.inf for rate in rates):
            refuse(self, "rates", "some different finite numbers above 0")
        object.__setattr__(self, "rates", rates)

    def step(self, turn: Turn) -> None:
        """Try a member and a rate, let the controller learn from it, then train."""
        options = allowed_options(turn.space)
        ahead = 0 if _LOGITS in turn.memory else self.ahead
        logits = turn.memory.setdefault(_LOGITS, self.even(options))
        for _ in range(ahead + 1):
            self.attempt(turn, options, logits)
        turn.rate = mixture(self.rates, logits[RATE])
        learn_led(turn, draw(options, logits, turn.rng), self.lead)

    def attempt(self, turn: Turn, options: Options, logits: Logits) -> None:
        """Try a member and a rate that the controller draws, and let it learn from what came of it."""
        config, at = draw(options, logits, turn.rng), pick(logits[RATE], turn.rng)
        loss = turn.foresee(config, self.rates[at])
        surplus = self.surplus(turn.memory, -loss)
        taken = {name: few.index(config[name]) for name, few in options.items()} | {RATE: at}
        for name, place in taken.items():
            logits[name] = moved(logits[name], place, self.speed * surplus)

    def even(self, options: Options) -> Logits:
        """Return the logits of a controller that knows nothing yet."""
        return {name: [0.0] * len(few) for name, few in options.items()} | {RATE: [0.0] * len(self.rates)}

    def surplus(self, memory: dict[str, Any], reward: float) -> float:
        """Return how far a reward lies above the moving baseline, in moving spreads; the baseline follows."""
        if _MEAN not in memory:
            if math.isfinite(reward):
                memory.update({_MEAN: reward, _SPREAD: 0.0})
            return 0.0 if math.isfinite(reward) else -1.0
        mean, spread = float(memory[_MEAN]), float(memory[_SPREAD])
        gap = reward - mean
        if not math.isfinite(gap):
            return -_CLIP
        if spread > 0:
            gap = max(-_CLIP * spread, min(_CLIP * spread, gap))  # the baseline is not to follow one that is far off
        memory[_MEAN] = mean + (1 - self.memory) * gap
        memory[_SPREAD] = self.memory * spread + (1 - self.memory) * abs(gap) if spread > 0 else abs(gap)
        return gap / spread if spread > 0 else math.copysign(1.0, gap) if gap else 0.0


def chosen(memory: Mapping[str, Any], space: Space, rates: Sequence[float]) -> tuple[Config, float]:
    """Return the likeliest member that the constraints allow, and the mixed factor of the learning rate.

    Args:
        memory: of a run, :attr:`pliant.training.Progress.memory`.
        space: the family's.
        rates: the recipe's.

    Raises:
        WrongShapeError: the memory is not of such a run.
    """
    options, logits = allowed_options(space), memory.get(_LOGITS)
    shapes = {name: len(few) for name, few in options.items()} | {RATE: len(rates)}
    if not isinstance(logits, Mapping) or {name: len(row) for name, row in logits.items()} != shapes:
        raise WrongShapeError("this is not the memory of a run that AutoHas trained on this space with these rates")
    likely = {name: max(range(len(row)), key=row.__getitem__) for name, row in logits.items()}
    return Config({name: few[likely[name]] for name, few in options.items()}), mixture(rates, logits[RATE])


def odds(logits: Sequence[float]) -> list[float]:
    """Return the probabilities that logits stand for."""
    most = max(logits)
    weights = [math.exp(value - most) for value in logits]
    return [weight / sum(weights) for weight in weights]


def pick(logits: Sequence[float], rng: Random) -> int:
    """Draw a place."""
    return rng.choices(range(len(logits)), odds(logits))[0]


def moved(logits: Sequence[float], at: int, by: float) -> list[float]:
    """Return logits after a step along the gradient of the log-probability of ``at``."""
    return [
        value + by * ((place == at) - share)
        for place, (value, share) in enumerate(zip(logits, odds(logits), strict=True))
    ]


def mixture(rates: Sequence[float], logits: Sequence[float]) -> float:
    """Return the geometric mean of rates, each weighted by its probability."""
    return math.exp(sum(share * math.log(rate) for share, rate in zip(odds(logits), rates, strict=True)))


def draw(options: Options, logits: Mapping[str, Sequence[float]], rng: Random) -> Config:
    """Draw a member that the constraints allow."""
    return Config({name: few[pick(logits[name], rng)] for name, few in options.items()})
