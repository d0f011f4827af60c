"""Neural architecture search by reinforcement: a recurrent controller writes configs, and learns from their worth.

The controller takes the choices one after the other: its state follows from the option before, and gives a softmax
over the options of the next. What it writes is measured; the logarithm of its probability is pushed up where the
reward exceeded a moving average of the rewards, and down where it did not (REINFORCE).

The claim of the paper: networks on a par with the best designed by hand (3.65 % error on CIFAR-10), and a recurrent
cell better than the LSTM on Penn Treebank.

Where this implementation differs: a plain recurrent cell rather than two layers of LSTM, and a larger rate, as the
budget is hundreds and not ten thousands; no skip anchors. The reward is the negative value, standardised over what is
known; of several objectives it is the negative number of fronts before the config's own, over their number; what breaks
constraints or failed has the worst reward. A config that it writes again is rewarded from memory, not measured again.
Known to be suboptimal: it needs far more measurements than evolution or a model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import ClassVar

import numpy as np

from ...checks import WrongShapeError
from ...space import Config, Problem, Space
from ...technique import Paper, Proposer, Searcher
from ._adam import Adam
from ._arrays import generator
from ._batches import Batches
from ._worth import Baseline, rewards

_TRIES = 20


@dataclass(frozen=True)
class Reinforce(Searcher):
    """Recurrent controller trained by REINFORCE with a moving-average baseline.

    Attributes:
        batch: configs per update of the controller.
        hidden: size of its state.
        rate: of learning.
        memory: share of the baseline that stays when a reward comes, from 0 to 1.
        entropy: weight of a bonus for undecided choices.
    """

    batch: int = 10
    hidden: int = 32
    rate: float = 0.02
    memory: float = 0.9
    entropy: float = 0.01

    paper: ClassVar[Paper] = Paper(
        "Zoph, Le", 2017, "Neural Architecture Search with Reinforcement Learning", "1611.01578"
    )

    def __post_init__(self) -> None:
        if self.batch < 1 or self.hidden < 1 or self.rate <= 0 or self.entropy < 0:
            raise WrongShapeError(f"batch and hidden are at least 1, rate above 0, entropy at least 0, got {self!r}")
        if not 0 <= self.memory < 1:
            raise WrongShapeError(f"memory is from 0 to below 1, got {self.memory}")

    def start(self, problem: Problem) -> Proposer:
        """Begin a search; ``problem.seed`` and the history decide every config."""
        return _Control(self, problem)


class Controller:
    """An autoregressive softmax policy over the configs of a space.

    Args:
        space: its choices, in their order, and the options that the constraints allow.
        hidden: size of the state.
        rng: draws the first weights: nearly even.
    """

    def __init__(self, space: Space, hidden: int, rng: np.random.Generator) -> None:
        self.allowed = space.allowed()
        sizes = [len(options) for options in self.allowed]
        self._starts = np.concatenate([[0], np.cumsum(sizes)]).astype(int)
        self.seen = rng.normal(0, 0.3, (1 + sum(sizes), hidden))  # row 0 is the beginning
        self.turn = rng.normal(0, 0.5 / np.sqrt(hidden), (hidden, hidden))
        self.heads = rng.normal(0, 0.1, (hidden, sum(sizes)))
        self.bias = np.zeros(sum(sizes))

    @property
    def parameters(self) -> list[np.ndarray]:
        """What is trained, in the order of :meth:`gradient`."""
        return [self.seen, self.turn, self.heads, self.bias]

    def _step(self, state: np.ndarray, before: np.ndarray, at: int) -> tuple[np.ndarray, np.ndarray]:
        """The next state (n, hidden) and the probabilities (n, options) of choice ``at``."""
        state = np.tanh(state @ self.turn + self.seen[before])
        part = slice(self._starts[at], self._starts[at + 1])
        logits = state @ self.heads[:, part] + self.bias[part]
        shifted = np.exp(logits - logits.max(axis=1, keepdims=True))
        return state, shifted / shifted.sum(axis=1, keepdims=True)

    def sample(self, count: int, rng: np.random.Generator) -> np.ndarray:
        """Return ``count`` drawn configs as places among the allowed options (count, choices)."""
        places = np.zeros((count, len(self.allowed)), dtype=np.int64)
        state, before = np.zeros((count, self.turn.shape[0])), np.zeros(count, dtype=int)
        for at in range(len(self.allowed)):
            state, chances = self._step(state, before, at)
            drawn = (chances.cumsum(axis=1) < rng.random((count, 1))).sum(axis=1)
            places[:, at] = np.minimum(drawn, chances.shape[1] - 1)
            before = 1 + self._starts[at] + places[:, at]
        return places

    def chances(self, places: np.ndarray) -> np.ndarray:
        """Return the probability (n,) of each row of ``places`` (n, choices)."""
        rows = np.arange(len(places))
        found = np.ones(len(places))
        state, before = np.zeros((len(places), self.turn.shape[0])), np.zeros(len(places), dtype=int)
        for at in range(len(self.allowed)):
            state, chances = self._step(state, before, at)
            found *= chances[rows, places[:, at]]
            before = 1 + self._starts[at] + places[:, at]
        return found

    def gradient(self, places: np.ndarray, weights: np.ndarray, entropy: float = 0.0) -> list[np.ndarray]:
        """Return the gradients of ``sum(weights * log p(places))``, (n, choices) and (n,), plus an entropy bonus.

        The bonus is ``entropy`` times the mean over the rows of the summed entropies of their softmaxes.
        """
        count, rows = len(places), np.arange(len(places))
        states, inputs, all_chances = [np.zeros((count, self.turn.shape[0]))], [], []
        before = np.zeros(count, dtype=int)
        for at in range(len(self.allowed)):
            state, chances = self._step(states[-1], before, at)
            states.append(state)
            inputs.append(before)
            all_chances.append(chances)
            before = 1 + self._starts[at] + places[:, at]
        seen, turn, heads, bias = (np.zeros_like(each) for each in self.parameters)
        back = np.zeros_like(states[0])
        for at in reversed(range(len(self.allowed))):
            chances = all_chances[at]
            slope = -weights[:, None] * chances
            slope[rows, places[:, at]] += weights
            logs = np.log(np.maximum(chances, 1e-300))
            slope -= entropy / count * chances * (logs - (chances * logs).sum(axis=1, keepdims=True))
            part = slice(self._starts[at], self._starts[at + 1])
            heads[:, part] += states[at + 1].T @ slope
            bias[part] += slope.sum(axis=0)
            back = (back + slope @ self.heads[:, part].T) * (1 - states[at + 1] ** 2)
            np.add.at(seen, inputs[at], back)
            turn += states[at].T @ back
            back = back @ self.turn.T
        return [seen, turn, heads, bias]


class _Control(Batches):
    def __init__(self, settings: Reinforce, problem: Problem) -> None:
        super().__init__(problem)
        self._settings = settings
        self.controller = Controller(problem.space, settings.hidden, generator(Random(f"{problem.seed}:controller")))
        self._adam = Adam(self.controller.parameters, settings.rate)
        self._baseline = Baseline(settings.memory)
        self._written: list[Config] = []  # and not learnt from yet

    def tell(self, config: Config, values: Sequence[float], violation: float = 0.0) -> None:
        super().tell(config, values, violation)
        if sum(each in self.told for each in self._written) >= self._settings.batch:
            self._learn()

    def plan(self, rng: Random, number: int) -> list[Config]:
        array_rng = generator(rng)
        for _ in range(_TRIES):
            [config] = self.space.configs(self._indices(self.controller.sample(1, array_rng)))
            if config in self.unseen:
                self._written.append(config)
                return [config]
            if config in self.told:
                self._written.append(config)
                if sum(each in self.told for each in self._written) >= self._settings.batch:
                    self._learn()
        return []

    def _indices(self, places: np.ndarray) -> np.ndarray:
        columns = [options[places[:, at]] for at, options in enumerate(self.controller.allowed)]
        return np.stack(columns, axis=1) if columns else np.zeros((len(places), 0), dtype=np.int64)

    def _places(self, configs: Sequence[Config]) -> np.ndarray:
        indices = self.space.indices(configs)
        columns = [np.searchsorted(options, indices[:, at]) for at, options in enumerate(self.controller.allowed)]
        return np.stack(columns, axis=1) if columns else indices

    def _learn(self) -> None:
        """Take a step for what was written and is known now."""
        known = [config for config in self._written if config in self.told]
        self._written = [config for config in self._written if config not in self.told]
        weights = self._baseline.advantages(self.rewards(known))
        ascent = self.controller.gradient(self._places(known), weights, self._settings.entropy)
        self._adam.step([-each for each in ascent])

    def rewards(self, configs: Sequence[Config]) -> np.ndarray:
        """The rewards (n,) of measured ``configs``, by what is known of all."""
        return rewards(self.told.values(), configs)
