"""From a family and its objectives to what a searcher is asked to solve, in plain arrays."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from itertools import islice
from typing import Any

import numpy as np

from ..checks import WrongShapeError
from ..measure import Objective
from ..space import Config, Constraint, Forms, Problem, Space
from ..space.problem import Count

_ALL = 50_000
"""Spaces up to this size are looked through for a config that keeps the constraints."""


def problem_of(
    family: Any,
    objectives: Sequence[Objective],
    known: Sequence[Objective],
    constraints: Sequence[Constraint],
    seed: int,
) -> Problem:
    """Return the problem of minimising ``objectives`` over ``family``.

    Args:
        family: has a ``space``, and may have ``canonical(config)``, and ``counts`` for many configs at once.
        objectives: what is optimised; those that can be counted become ``exact``.
        known: the objectives and whatever else may be counted; those that can be become ``statistics``, and constraints
            on them ``violation``.
        constraints: on measured values.
        seed: of the search.

    Raises:
        WrongShapeError: no config can keep the constraints.
    """
    space: Space = family.space
    counts = {each.name: count for each in known if (count := each.count(family)) is not None}
    exact = {
        place: counts[each.name] if each.direction == "min" else _negative(counts[each.name])
        for place, each in enumerate(objectives)
        if each.name in counts
    }
    optimised = {each.name for each in objectives}
    statistics = {name: count for name, count in counts.items() if name not in optimised}
    bounded = [constraint for constraint in constraints if constraint.name in counts]
    violation = _violation(bounded, counts) if bounded else None
    if violation is not None:
        _possible(space, violation, bounded, counts)
    sure = getattr(family, "counts", None)
    if sure is not None:
        forms: Forms | None = Forms(sure.canonical, sure.active)
    else:
        same = _canonical(family)
        forms = None if same is None else Forms(same)
    return Problem(space, len(objectives), seed, exact, statistics, forms, violation)


def _negative(count: Count) -> Count:
    return lambda rows: -np.asarray(count(rows))


def _violation(constraints: Sequence[Constraint], counts: Mapping[str, Count]) -> Count:
    def total(rows: np.ndarray) -> np.ndarray:
        found = np.zeros(len(rows))
        for constraint in constraints:
            found += excess(constraint, np.asarray(counts[constraint.name](rows), dtype=float))
        return found

    return total


def excess(constraint: Constraint, values: np.ndarray) -> np.ndarray:
    """Return :meth:`Constraint.violation` of each of ``values`` (n,)."""
    with np.errstate(invalid="ignore"):  # infinite less infinite; decided below
        off = np.abs(values - constraint.bound) / (abs(constraint.bound) or 1.0)
    size = np.maximum(off, sys.float_info.epsilon)
    size = np.where(np.isnan(values) | np.isinf(constraint.bound), np.inf, size)
    holds = {"<=": np.less_equal, ">=": np.greater_equal, "==": np.equal, "<": np.less, ">": np.greater}
    kept: np.ndarray = holds[constraint.op](values, constraint.bound)
    return np.where(kept, 0.0, size)


def _possible(space: Space, violation: Count, constraints: Sequence[Constraint], counts: Mapping[str, Count]) -> None:
    """Raise where counting every config shows that none keeps the constraints."""
    if space.size > _ALL:
        return
    ranges = {constraint.name: (np.inf, -np.inf) for constraint in constraints}
    configs = space.enumerate()
    while chunk := list(islice(configs, 5000)):
        rows = space.indices(chunk)
        if (violation(rows) == 0).any():
            return
        for name, (low, high) in ranges.items():
            values = counts[name](rows)
            ranges[name] = (min(low, float(values.min())), max(high, float(values.max())))
    rules = " and ".join(f"'{constraint}'" for constraint in constraints)
    spans = "; ".join(f"{name} goes from {low:g} to {high:g}" for name, (low, high) in ranges.items())
    raise WrongShapeError(f"none of the {space.size} configs keeps {rules}: {spans}. Loosen the constraints")


def _canonical(family: Any) -> Callable[[np.ndarray], np.ndarray] | None:
    """Return the family's ``canonical`` over option indices, each row looked up once."""
    same: Callable[[Config], Config] | None = getattr(family, "canonical", None)
    if same is None:
        return None
    space: Space = family.space
    known: dict[bytes, np.ndarray] = {}

    def canonical(rows: np.ndarray) -> np.ndarray:
        rows = np.ascontiguousarray(rows, dtype=np.int64)
        keys = [row.tobytes() for row in rows]
        new = {key: row for key, row in zip(keys, rows, strict=True) if key not in known}
        if new:
            configs = space.configs(np.array(list(new.values())))
            found = space.indices([same(config) for config in configs])
            known.update(zip(new, found, strict=True))
        return np.array([known[key] for key in keys], dtype=np.int64).reshape(rows.shape)

    return canonical
