"""A problem over some of the choices of another."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from random import Random

import numpy as np

from ...space import Count, Forms, Problem, Space


def restricted(problem: Problem, columns: Sequence[int], fill: np.ndarray) -> Problem:
    """Return the problem of ``columns`` alone.

    With one row of ``fill``, the other choices are decided, and whatever can be computed of configs still can. With
    several they may turn out otherwise: nothing is exact then, statistics are those of the first row, a choice matters
    that does in any of them, and constraints are broken as little as in any.

    Args:
        problem: the whole.
        columns: of the choices that are left.
        fill: option indices (rows, choices of the whole) for the others.
    """
    choices = [problem.space.choices[at] for at in columns]
    names = {choice.name for choice in choices}
    space = Space(choices, [rule for rule in problem.space.constraints if rule.name in names])
    others = [at for at in range(len(problem.space.choices)) if at not in columns]
    _, kept = np.unique(fill[:, others], axis=0, return_index=True)
    rows = fill[sorted(kept)]  # the first stays the first

    def whole(indices: np.ndarray, row: np.ndarray) -> np.ndarray:
        found = np.repeat(row[None], len(indices), axis=0)
        found[:, columns] = indices
        return found

    def first(count: Count) -> Count:
        return lambda indices: np.asarray(count(whole(indices, rows[0])))

    def lowest(indices: np.ndarray) -> np.ndarray:
        assert problem.violation is not None
        return np.min([problem.violation(whole(indices, row)) for row in rows], axis=0)

    forms = None
    if problem.active is not None:
        matters = problem.active
        tops = np.array([options[-1] for options in space.allowed()], dtype=np.int64)

        def active(indices: np.ndarray) -> np.ndarray:
            found = matters(np.concatenate([whole(indices, row) for row in rows]))[:, columns]
            either: np.ndarray = np.any(found.reshape(len(rows), len(indices), len(columns)), axis=0)
            return either

        forms = Forms(lambda indices: np.where(active(indices), indices, tops), active)
    seed = Random(f"{problem.seed}:{columns}:{rows[0].tolist()}").getrandbits(31)
    return replace(
        problem,
        space=space,
        seed=seed,
        exact={place: first(count) for place, count in problem.exact.items()} if len(rows) == 1 else {},
        statistics={name: first(count) for name, count in problem.statistics.items()},
        forms=forms,
        violation=None if problem.violation is None else lowest,
    )
