"""Efficient architecture search: a controller looks at the network as it is and says what of it shall grow.

From a small network that was measured, children grow in steps. In each step the controller reads the choices of the
network at hand in both directions. First its wider actor decides for each ordered choice whether it goes one option up
(more units, the next kernel); then its deeper actor takes one of the places where something can be put in: a choice of
booleans that is still false, or one without an order that still has its first option. A child is measured, and the
logarithm of the probability of all its steps is pushed up where the reward exceeded a moving average of the rewards,
and down where it did not (REINFORCE). After a while the best network known becomes the one that children grow from.
In the space of :class:`pliant.Growth` all growths keep the function, so children inherit the weights.

The claim of the paper: 4.23 % error on CIFAR-10 by networks without skip connections, found with five GPUs, and
DenseNets that are better with fewer parameters.

Where this implementation differs: plain recurrent cells rather than LSTMs, each option of each choice has an embedding
of its own, and the deeper actor scores all places at once rather than deciding on a block, a layer in it and a kernel,
one after the other; it may also put nothing in. The paper takes 4 wider and 5 deeper steps from a start network that is
replaced once, by hand; here the best known is the next start after ``children``, or when the controller only repeats
itself: a child of the best that is one option larger is measured then, and not learnt from. Of several objectives the
start is a random network of the first front; no start is used twice, and the smallest is where none is left. The reward
is the negative value, standardised over what is known, rather than a tangent of the accuracy; of several objectives it
is the negative number of fronts before the config's own, over their number; what breaks constraints or failed has the
worst reward. A network that it grows again is rewarded from memory. With the rate 0 it takes random actions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import ClassVar

import numpy as np

from ...checks import WrongShapeError
from ...space import Config, Problem
from ...technique import Paper, Proposer, Searcher
from ._arrays import generator
from ._growing import Growing
from ._meta_controller import MetaController, Steps
from ._standing import ranks

_TRIES = 20


@dataclass(frozen=True)
class Eas(Searcher):
    """Meta-controller that widens and deepens the best network known, trained by REINFORCE.

    Attributes:
        batch: children per update of the controller.
        children: how many grow from one network before the best known takes its place.
        wider: decisions of the wider actor per child.
        deeper: decisions of the deeper actor per child, after those.
        hidden: size of the controller's states and embeddings.
        rate: of learning.
        memory: share of the baseline that stays when a reward comes, from 0 to 1.
    """

    batch: int = 10
    children: int = 100
    wider: int = 4
    deeper: int = 5
    hidden: int = 32
    rate: float = 0.03
    memory: float = 0.95

    paper: ClassVar[Paper] = Paper(
        "Cai, Chen, Zhang, Yu, Wang", 2018, "Efficient Architecture Search by Network Transformation", "1707.04873"
    )

    def __post_init__(self) -> None:
        if min(self.batch, self.children, self.hidden) < 1 or min(self.wider, self.deeper, self.rate) < 0:
            raise WrongShapeError(
                f"batch, children and hidden are at least 1, wider, deeper and rate at least 0, got {self!r}"
            )
        if self.wider + self.deeper < 1:
            raise WrongShapeError("a child takes at least one step: wider or deeper is at least 1, got 0 and 0")
        if not 0 <= self.memory < 1:
            raise WrongShapeError(f"memory is from 0 to below 1, got {self.memory}")

    def start(self, problem: Problem) -> Proposer:
        """Begin a search; ``problem.seed`` and the history decide every config."""
        return _Stages(self, problem)


class _Stages(Growing[Steps]):
    def __init__(self, settings: Eas, problem: Problem) -> None:
        first_weights = generator(Random(f"{problem.seed}:controller"))
        self.controller = MetaController(problem.space, settings.hidden, first_weights)
        super().__init__(problem, self.controller.parameters, settings.batch, settings.rate, settings.memory)
        self._settings = settings
        self._allowed = problem.space.allowed()
        self._root = np.zeros(len(self._allowed), dtype=np.int64)
        self.parent = self._root
        self._kinds = [False] * settings.wider * bool(self.controller.wide.any())
        self._kinds += [True] * settings.deeper * bool(len(self.controller.insertions))
        self._left = settings.children
        self._spent = set(self.unseen.same([self._config(self._root)]))

    def plan(self, rng: Random, number: int) -> list[Config]:
        drawn = generator(rng)
        root = self._config(self._root)
        if root in self.unseen and self.unseen.allowed([root]):
            return [root]  # what children are compared with
        if self._left == 0:
            self._next_stage(drawn)
        [parent] = self.unseen.same([self._config(self.parent)])
        for _ in range(_TRIES if self._kinds else 0):
            child, steps = self._child(drawn)
            same = self.unseen.same([child])[0]
            if (child in self.unseen and not self.unseen.allowed([child])) or same == parent:
                continue  # nothing that could be measured, or no growth at all
            if self.grew(child, steps):
                self._left -= 1
                return [child]
        self._next_stage(drawn)  # the controller repeats itself
        near = self.unseen.of(self.space.neighbours(self._config(self.parent)))
        grown = [each for each in near if self._is_growth(each)]
        rng.shuffle(grown)
        return grown[:1]

    # ---- growing -----------------------------------------------------------------------------------------------------
    def _config(self, places: np.ndarray) -> Config:
        columns = [options[place] for options, place in zip(self._allowed, places, strict=True)]
        return self.space.configs(np.array(columns, dtype=np.int64).reshape(1, -1))[0]

    def _places(self, config: Config) -> np.ndarray:
        [row] = self.space.indices([config])
        found = [np.searchsorted(options, index) for options, index in zip(self._allowed, row, strict=True)]
        return np.array(found, dtype=np.int64)

    def _active(self, places: np.ndarray) -> np.ndarray:
        """Which choices matter (1, choices) in a network (choices,)."""
        if self.problem.active is None or not len(places):
            return np.ones((1, len(places)), dtype=bool)
        indices = self.space.indices([self._config(places)])
        return np.asarray(self.problem.active(indices), dtype=bool)

    def _is_growth(self, config: Config) -> bool:
        places = self._places(config)
        may = (places > self.parent) & (self.controller.wide | (self.parent == 0))
        return bool((may | (places == self.parent)).all())

    def _child(self, rng: np.random.Generator) -> tuple[Config, Steps]:
        """Return a network that grew from the parent, which it may still be, and the decisions that led there."""
        places, parts = self.parent.copy(), []
        active = self._active(places)
        for deep in self._kinds:
            row = places[None].copy()
            grows, takes = self.controller.chances(row, active)
            widened, taken = np.zeros(row.shape, dtype=bool), -1
            if not deep:
                widened = rng.random(row.shape) < grows
                places += widened[0]
            else:
                taken = int(min((takes[0].cumsum() < rng.random()).sum(), takes.shape[1] - 1))
                if taken < len(self.controller.insertions):
                    at, option = self.controller.insertions[taken]
                    places[at] = option
            parts.append(Steps(row, active, widened, np.array([taken])))
            before, active = active, self._active(places)
            places[(active & ~before)[0]] = 0  # what is put in begins as the smallest
        return self._config(places), Steps.joined(parts)

    def _next_stage(self, rng: np.random.Generator) -> None:
        """Go on from the best network known that nothing grew from yet, or from the smallest where there is none."""
        good = [each for each in self.told.values() if not each.failed and each.violation == 0]
        left = [each for each in good if self.unseen.same([each.config])[0] not in self._spent]
        self.parent = self._root
        if left:
            front = np.flatnonzero(ranks(np.array([each.values for each in left])) == 0)
            best = left[int(rng.choice(front))].config
            self._spent.update(self.unseen.same([best]))
            self.parent = self._places(best)
        self._left = self._settings.children

    # ---- learning ----------------------------------------------------------------------------------------------------
    def ascent(self, steps: Sequence[Steps], advantages: np.ndarray) -> list[np.ndarray]:
        return self.controller.gradient(Steps.joined(steps), np.repeat(advantages, len(self._kinds)))
