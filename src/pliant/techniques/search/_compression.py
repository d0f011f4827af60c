"""Policies that decide choice by choice how a network shrinks, with weights that fit any space."""

from __future__ import annotations

import base64
import binascii
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from ...checks import WrongShapeError
from ...space import Choice, Space
from ._lstm import Lstm, Moment

KNOTS = 11
"""Shares of a size from 0 to 1 for which a policy has an output: the actions 0, 0.1 … 1."""

FEATURES = 6
"""Numbers that describe a choice."""

_MARK = "n2n"

Choose = Callable[[int, np.ndarray], np.ndarray]
"""The step and its probabilities (n or 1, options) to the options taken (n,)."""


@dataclass(frozen=True)
class Steps:
    """What is decided, one choice after the other.

    Attributes:
        inputs: what is known of each choice (steps, FEATURES).
        basis: for each, how its options lie between the knots (options, KNOTS); rows sum to 1.
        shares: for each, its options as shares of the largest (options,).
    """

    inputs: np.ndarray
    basis: tuple[np.ndarray, ...]
    shares: tuple[np.ndarray, ...]


def shares_of(choice: Choice) -> np.ndarray:
    """Return every option as a share of the full network's, in [0, 1] (options,).

    Of numbers that is their size over that of the largest; of anything else, and where the last is not the largest,
    their place. ``False`` is 0 and ``True`` is 1.
    """
    numbers = [float(option) for option in choice.options if isinstance(option, (bool, int, float))]
    if len(numbers) == len(choice.options) and min(numbers) >= 0 and numbers[-1] == max(numbers) > 0:
        return np.array(numbers) / numbers[-1]
    return (np.arange(len(choice.options)) + 1.0) / len(choice.options)


def describe(
    space: Space, columns: Sequence[int], base: np.ndarray, cost: Callable[[np.ndarray], np.ndarray] | None
) -> Steps:
    """Return what a policy sees of the choices ``columns`` of a network.

    A choice is seen as its number of options, its largest size, the share that its smallest option is of that, whether
    it is ordered, whether it is a yes or no, and the share of the cost that goes when it takes its smallest option, by
    how many times it exceeds an even share. Its position is left out: a policy that learns places by heart serves no
    other space.

    Args:
        space: of the choices.
        columns: positions of the choices.
        base: option indices (choices,) of the network that shrinks.
        cost: of option indices (n, choices); ``None`` where there is none.
    """
    allowed = space.allowed()
    smaller = np.repeat(base[None], len(columns) + 1, axis=0)
    for row, column in enumerate(columns):
        smaller[row, column] = allowed[column][0]
    costs = np.ones(len(smaller)) if cost is None else np.asarray(cost(smaller), dtype=float)
    inputs = np.zeros((len(columns), FEATURES))
    shares = []
    for row, column in enumerate(columns):
        choice, left = space.choices[column], allowed[column]
        shares.append(shares_of(choice)[left])
        last = choice.options[left[-1]]
        size = abs(float(last)) if isinstance(last, (int, float)) else 0.0
        inputs[row] = [
            np.log(len(left)) / 3,
            np.log1p(size) / 10,
            shares[-1][0],
            choice.ordered,
            isinstance(last, bool),
            np.log2(np.clip((1 - costs[row] / (costs[-1] or 1.0)) * len(columns), 1 / 16, 16)) / 2,
        ]
    places = [np.asarray(each)[:, None] * (KNOTS - 1) - np.arange(KNOTS) for each in shares]
    return Steps(inputs, tuple(np.maximum(0.0, 1.0 - np.abs(each)) for each in places), tuple(shares))


@dataclass(frozen=True)
class _Walk:
    chances: list[np.ndarray]  # per step (m, options); m is 1 where all sequences share them
    states: np.ndarray  # (steps, m, width)
    places: np.ndarray  # (n, steps)
    tapes: list[list[Moment]]


class Policy(ABC):
    """A softmax over the options of every step, by one head that all steps and options share.

    The head gives a number for each of the :data:`KNOTS` shares of a size; an option's is read between the two
    knots around it. So the same weights decide any number of choices with any options.

    Args:
        width: of the states that the head reads.
        cells: the recurrent cells below it.
        rng: draws the first weights: nearly even decisions.
    """

    def __init__(self, width: int, cells: Sequence[Lstm], rng: np.random.Generator) -> None:
        self.cells = list(cells)
        self.head = rng.normal(0, 0.1 / np.sqrt(width), (width, KNOTS))
        self.bias = np.zeros(KNOTS)

    @property
    def parameters(self) -> list[np.ndarray]:
        """What is trained, in the order of :meth:`gradient`."""
        return [*(each for cell in self.cells for each in cell.parameters), self.head, self.bias]

    @abstractmethod
    def _walk(self, steps: Steps, count: int, choose: Choose) -> _Walk:
        """Decide ``count`` times, option by option."""

    @abstractmethod
    def _back(self, tapes: list[list[Moment]], slopes: np.ndarray) -> list[np.ndarray]:
        """Return the gradients of the cells, given those of the states (steps, m, width)."""

    def _chances(self, state: np.ndarray, basis: np.ndarray) -> np.ndarray:
        logits = (state @ self.head + self.bias) @ basis.T
        raised = np.exp(logits - logits.max(axis=1, keepdims=True))
        return np.asarray(raised / raised.sum(axis=1, keepdims=True))

    def sample(self, steps: Steps, count: int, rng: np.random.Generator) -> np.ndarray:
        """Return ``count`` drawn decisions, as places among the allowed options (count, steps)."""

        def draw(at: int, chances: np.ndarray) -> np.ndarray:
            above = chances.cumsum(axis=1) < rng.random((count, 1))
            return np.minimum(above.sum(axis=1), chances.shape[1] - 1)

        return self._walk(steps, count, draw).places

    def logs(self, steps: Steps, places: np.ndarray) -> np.ndarray:
        """Return the logarithm of the probability (n,) of each row of ``places`` (n, steps)."""
        walk = self._walk(steps, len(places), lambda at, chances: places[:, at])
        found = np.zeros(len(places))
        for at, chances in enumerate(walk.chances):
            rows = np.arange(len(places)) % len(chances)  # one row of probabilities may serve all
            found += np.log(np.maximum(chances[rows, places[:, at]], 1e-300))
        return found

    def gradient(self, steps: Steps, places: np.ndarray, weights: np.ndarray) -> list[np.ndarray]:
        """Return the gradients of ``sum(weights * logs(steps, places))``; places (n, steps), weights (n,)."""
        count, rows = len(places), np.arange(len(places))
        walk = self._walk(steps, count, lambda at, chances: places[:, at])
        head, bias = np.zeros_like(self.head), np.zeros_like(self.bias)
        slopes = np.zeros_like(walk.states)
        for at, chances in enumerate(walk.chances):
            slope = -weights[:, None] * chances
            slope[rows, places[:, at]] += weights
            knots = slope @ steps.basis[at]
            if len(chances) < count:
                knots = knots.sum(axis=0, keepdims=True)
            head += walk.states[at].T @ knots
            bias += knots.sum(axis=0)
            slopes[at] = knots @ self.head.T
        return [*self._back(walk.tapes, slopes), head, bias]


class Removal(Policy):
    """Reads all choices in both directions, then decides each by itself: which parts stay."""

    def __init__(self, hidden: int, rng: np.random.Generator) -> None:
        super().__init__(2 * hidden, [Lstm(FEATURES, hidden, rng) for _ in range(2)], rng)

    def _walk(self, steps: Steps, count: int, choose: Choose) -> _Walk:
        xs = steps.inputs[:, None]
        (ahead, first), (behind, second) = self.cells[0].run(xs), self.cells[1].run(xs[::-1])
        states = np.concatenate([ahead, behind[::-1]], axis=2)
        chances = [self._chances(state, basis) for state, basis in zip(states, steps.basis, strict=True)]
        places = [choose(at, each) for at, each in enumerate(chances)]
        return _Walk(chances, states, _columns(places, count), [first, second])

    def _back(self, tapes: list[list[Moment]], slopes: np.ndarray) -> list[np.ndarray]:
        ahead, behind = np.split(slopes, 2, axis=2)
        return [*self.cells[0].back(tapes[0], ahead), *self.cells[1].back(tapes[1], behind[::-1])]


class Shrinkage(Policy):
    """Reads the choices in one direction, each with the size just decided: how far what stays shrinks."""

    def __init__(self, hidden: int, rng: np.random.Generator) -> None:
        super().__init__(hidden, [Lstm(FEATURES + 1, hidden, rng)], rng)

    def _walk(self, steps: Steps, count: int, choose: Choose) -> _Walk:
        [cell] = self.cells
        state, memory = cell.begin(count)
        states, tape = np.zeros((len(steps.inputs), count, cell.hidden)), list[Moment]()
        all_chances, places = list[np.ndarray](), list[np.ndarray]()
        before = np.ones(count)  # nothing has shrunk yet
        for at, x in enumerate(steps.inputs):
            seen = np.concatenate([np.repeat(x[None], count, axis=0), before[:, None]], axis=1)
            state, memory, moment = cell.step(seen, state, memory)
            states[at] = state
            tape.append(moment)
            all_chances.append(self._chances(state, steps.basis[at]))
            places.append(choose(at, all_chances[-1]))
            before = steps.shares[at][places[-1]]
        return _Walk(all_chances, states, _columns(places, count), [tape])

    def _back(self, tapes: list[list[Moment]], slopes: np.ndarray) -> list[np.ndarray]:
        return self.cells[0].back(tapes[0], slopes)


def _columns(places: list[np.ndarray], count: int) -> np.ndarray:
    return np.stack(places, axis=1) if places else np.zeros((count, 0), dtype=np.int64)


def written(policies: Sequence[Policy], hidden: int) -> str:
    """Return the weights as text, in single precision: ``n2n:HIDDEN:`` and base64."""
    flat = np.concatenate([each.ravel() for policy in policies for each in policy.parameters])
    return f"{_MARK}:{hidden}:{base64.b64encode(flat.astype('<f4').tobytes()).decode()}"


def read(text: str, policies: Sequence[Policy], hidden: int) -> None:
    """Set the weights of ``policies`` of that ``hidden`` size to those of :func:`written`.

    Raises:
        WrongShapeError: it is no such text, or of another size.
    """
    mark, _, rest = text.partition(":")
    size, _, data = rest.partition(":")
    if mark != _MARK or not size.isdecimal():
        raise WrongShapeError(
            f"policy is the text of a trained policy, 'n2n:SIZE:…', as a running search's .policy gives it; got "
            f"{text[:30]!r}"
        )
    if int(size) != hidden:
        raise WrongShapeError(
            f"the policy was trained with hidden={size}, and hidden is {hidden} here; set it to {size}"
        )
    parameters = [each for policy in policies for each in policy.parameters]
    try:
        flat = np.frombuffer(base64.b64decode(data, validate=True), dtype="<f4").astype(float)
    except (binascii.Error, ValueError) as error:
        raise WrongShapeError(f"the policy's weights cannot be read ({error}); copy the whole text") from None
    wanted = sum(each.size for each in parameters)
    finite = int(np.isfinite(flat).sum())
    if finite != wanted or len(flat) != wanted:
        raise WrongShapeError(
            f"the policy holds {len(flat)} weights, {finite} of them finite, where hidden={hidden} has {wanted}; copy "
            "the whole text"
        )
    start = 0
    for each in parameters:
        each[...] = flat[start : start + each.size].reshape(each.shape)
        start += each.size
