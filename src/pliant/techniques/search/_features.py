"""Configs as a Gaussian process sees them: what is alike for the network is near in these numbers."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import numpy as np

from ...space import Choice, Problem

_FEW = 8
"""Ordered choices of up to so many options also say which option it is; beyond, only where it lies among them."""
_SEGMENTS = 3
_LONG = 6
"""Rows of like choices from this length on are summed in :data:`_SEGMENTS` segments too: early, middle, late."""


class Features:
    """Turns option indices (n, choices) into features (n, width) in groups that share a length scale.

    The groups: one-hot options; positions of ordered options from 0 to 1; means of these positions, and shares of the
    smallest option, over choices that are alike (the same name but for its numbers: over one stage, over all); the
    logarithms of the free statistics. Choices that do not matter in a config have an option of their own in the first,
    and count as smallest in the others.

    Args:
        problem: says what is known of a config.
        sample: option indices (n, choices) that the statistics are scaled over.
        statistics: whether to use them.
    """

    def __init__(self, problem: Problem, sample: np.ndarray, statistics: bool = True) -> None:
        self._problem = problem
        choices = problem.space.choices
        self._tops = np.array([max(1, len(choice.options) - 1) for choice in choices])
        self._ordered = np.array([index for index, choice in enumerate(choices) if choice.ordered], dtype=int)
        absent = problem.active is not None  # an option more: what does not matter
        self._onehot = [
            (index, len(choice.options) + absent)
            for index, choice in enumerate(choices)
            if len(choice.options) > 1 and not (choice.ordered and len(choice.options) > _FEW)
        ]
        self._alike = alike(choices)
        self._counts = list(problem.statistics.values()) + list(problem.exact.values()) if statistics else []
        logs = self._logs(sample)
        self._counts = [count for count, known in zip(self._counts, logs.T, strict=True) if np.ptp(known) > 1e-9]
        logs = self._logs(sample)
        self._low, self._span = logs.min(axis=0), np.ptp(logs, axis=0)
        self.groups = self._grouped()
        self._hot = sum(count for _, count in self._onehot)
        self._columns = np.array([column for column, _ in self._onehot], dtype=int)
        self._starts = np.cumsum([0, *(count for _, count in self._onehot)])[:-1].astype(int)
        self._absent = np.array([size - 1 for _, size in self._onehot], dtype=int)
        self.overlap = len(self._onehot)
        self._mean = np.zeros((len(choices), len(self._alike)))
        for at, group in enumerate(self._alike):
            self._mean[group, at] = 1.0 / len(group)
        self._width = self._hot + len(self._ordered) + 2 * len(self._alike) + len(self._counts)

    def _logs(self, indices: np.ndarray) -> np.ndarray:
        columns = [np.log(np.maximum(np.asarray(count(indices), dtype=float), 1e-12)) for count in self._counts]
        return np.array(columns).reshape(len(columns), len(indices)).T

    def cost(self, indices: np.ndarray) -> np.ndarray:
        """Return one number (n,) that grows with the size of configs: the first statistic's logarithm, or, where there
        is none, the mean place of the options.
        """
        if self._counts:
            return self._logs(indices)[:, 0]
        return (indices / self._tops).mean(axis=1) if indices.shape[1] else np.zeros(len(indices))

    def _grouped(self) -> list[slice]:
        widths = [sum(count for _, count in self._onehot), len(self._ordered)]
        widths += [len(self._alike)] * 2
        widths.append(len(self._counts))
        starts = np.cumsum([0, *widths])
        return [slice(start, start + width) for start, width in zip(starts.tolist(), widths, strict=False) if width]

    def __call__(self, indices: np.ndarray) -> np.ndarray:
        """Return the features (n, width) of canonical option ``indices`` (n, choices)."""
        count = len(indices)
        active: np.ndarray | bool = True
        if self._problem.active is not None and count:
            active = np.asarray(self._problem.active(indices), dtype=bool)
        place = indices / self._tops * active
        found = np.zeros((count, self._width), dtype=np.float32)  # they are many, and need not be precise
        hot = self._starts + indices[:, self._columns]
        if isinstance(active, np.ndarray):
            hot = np.where(active[:, self._columns], hot, self._starts + self._absent)
        found[np.arange(count)[:, None], hot] = 1.0
        start = self._hot
        for part in (place[:, self._ordered], place @ self._mean, (place == 0) @ self._mean, self._scaled(indices)):
            found[:, start : start + part.shape[1]] = part
            start += part.shape[1]
        return found

    def _scaled(self, indices: np.ndarray) -> np.ndarray:
        return (self._logs(indices) - self._low) / self._span * 2.0 if self._counts else np.empty((len(indices), 0))


def alike(choices: Sequence[Choice]) -> list[np.ndarray]:
    """Return the groups (positions) of two and more ordered choices that play one role.

    Choices of one role have the same name but for numbers, and equally many options. Numbers are taken away from the
    last to the first: ``stages.1.layers.*.width``, then ``stages.*.layers.*.width``.
    """
    found: dict[tuple[int, ...], None] = {}
    for level in range(1, 4):
        roles: dict[tuple[str, int], list[int]] = {}
        for index, choice in enumerate(choices):
            name = _without(choice.name, level)
            if choice.ordered and len(choice.options) > 1 and name is not None:
                roles.setdefault((name, len(choice.options)), []).append(index)
        found.update(dict.fromkeys(_rows(roles)))
    return [np.array(group) for group in found]


def _rows(roles: Mapping[tuple[str, int], list[int]]) -> list[tuple[int, ...]]:
    rows = []
    for members in roles.values():
        if len(members) >= _LONG:
            rows += [tuple(part.tolist()) for part in np.array_split(np.array(members), _SEGMENTS)]
        if len(members) > 1:
            rows.append(tuple(members))
    return rows


def _without(name: str, level: int) -> str | None:
    """Return ``name`` without its last ``level`` numbers; ``None`` where it has fewer."""
    parts = re.split(r"(\d+)", name)
    numbers = range(len(parts) - 2, 0, -2)
    if level > len(numbers):
        return None
    for at in list(numbers)[:level]:
        parts[at] = "*"
    return "".join(parts)
