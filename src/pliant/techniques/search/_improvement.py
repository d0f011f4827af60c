"""Expected hypervolume improvement in closed form, for objectives that are independent given the config.

What no point of the front dominates is cut into boxes. The improvement of a config is the volume that it dominates of
each; its expectation factorises over the objectives of a box (Yang, Emmerich, Deutz and Bäck, 2019, Efficient
computation of expected hypervolume improvement using box decomposition algorithms, arXiv 1904.12672). An objective
that is known exactly has its volume instead of an expectation.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from scipy.special import ndtr

_CELLS = 4_000_000


class Belief(Protocol):
    """What is believed of one objective of n configs."""

    def below(self, levels: np.ndarray) -> np.ndarray:
        """Return how far each config is expected to lie below each level, E[max(level - value, 0)], (n, levels)."""
        ...


@dataclass(frozen=True)
class Exact:
    """Known values (n,)."""

    values: np.ndarray

    def below(self, levels: np.ndarray) -> np.ndarray:
        return np.maximum(levels - self.values[:, None], 0.0)


@dataclass(frozen=True)
class Normal:
    """Normal beliefs: means and standard deviations (n,)."""

    mean: np.ndarray
    deviation: np.ndarray

    def below(self, levels: np.ndarray) -> np.ndarray:
        gap, deviation = levels - self.mean[:, None], self.deviation[:, None]
        score = gap / deviation
        return np.maximum(gap * ndtr(score) + deviation * np.exp(-0.5 * score * score) / np.sqrt(2 * np.pi), 0.0)


@dataclass(frozen=True)
class LogNormal:
    """Normal beliefs of the logarithm: means and standard deviations (n,)."""

    mean: np.ndarray
    deviation: np.ndarray

    def below(self, levels: np.ndarray) -> np.ndarray:
        deviation = self.deviation[:, None]
        positive = np.maximum(levels, 1e-300)
        score = (np.log(positive) - self.mean[:, None]) / deviation
        expected = np.exp(np.minimum(self.mean + 0.5 * self.deviation**2, 700.0))[:, None]
        found = np.maximum(positive * ndtr(score) - expected * ndtr(score - deviation), 0.0)
        return np.where(levels > 0, found, 0.0)


def boxes(front: np.ndarray, reference: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Cut what ``front`` (n, objectives) leaves undominated below ``reference`` into disjoint boxes.

    Returns:
        The lower (some -inf) and the upper corners, both (boxes, objectives).
    """
    inside = front[(front < reference).all(axis=1)]
    if front.shape[1] == 1:
        top = min([float(reference[0]), *inside[:, 0].tolist()])
        return np.array([[-np.inf]]), np.array([[top]])
    cuts = np.concatenate([[-np.inf], np.unique(inside[:, -1]), reference[-1:]])
    if front.shape[1] == 2:  # a staircase: below each step, what no point to the left is under
        order = np.argsort(inside[:, 1], kind="stable")
        least = np.minimum.accumulate(np.append(reference[0], inside[order, 0]))
        tops = least[np.searchsorted(inside[order, 1], cuts[:-1], side="right")]
        return np.column_stack([np.full(len(tops), -np.inf), cuts[:-1]]), np.column_stack([tops, cuts[1:]])
    lower, upper = [], []
    for start, stop in itertools.pairwise(cuts):
        low, high = boxes(inside[inside[:, -1] <= start][:, :-1], reference[:-1])
        lower.append(np.column_stack([low, np.full(len(low), start)]))
        upper.append(np.column_stack([high, np.full(len(high), stop)]))
    return np.concatenate(lower), np.concatenate(upper)


def expected_improvement(beliefs: list[Belief], lower: np.ndarray, upper: np.ndarray) -> np.ndarray:
    """Return the expected hypervolume improvement (n,) of n configs over the boxes of :func:`boxes`."""
    product: np.ndarray | None = None
    parts = []
    for at, belief in enumerate(beliefs):
        levels, place = np.unique(np.concatenate([lower[:, at], upper[:, at]]), return_inverse=True)
        found = np.zeros((0, 0))
        finite = np.isfinite(levels)
        found = belief.below(levels[finite])
        if not finite.all():  # -inf, the only one
            found = np.concatenate([np.zeros((len(found), 1)), found], axis=1)
        parts.append((found, place[: len(lower)], place[len(lower) :]))
    count = len(parts[0][0])
    total = np.empty(count)
    step = max(1, _CELLS // max(1, len(lower)))
    for start in range(0, count, step):
        rows = slice(start, start + step)
        product = None
        for found, low, high in parts:
            width = found[rows][:, high] - found[rows][:, low]
            product = width if product is None else product * width
        assert product is not None
        total[rows] = product.sum(axis=1)
    return total
