"""The record of a search."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ..checks import PliantError, WrongShapeError, unknown
from ..measure import Direction
from ..space import Space
from ..space.front import hypervolume, non_dominated
from .records import assembled
from .store import Store
from .trial import Trial


@dataclass(frozen=True, eq=False)
class Study:
    """Every measured config with its values, as it was when this object was made.

    Attributes:
        space: what was searched.
        directions: objective name to ``"min"`` or ``"max"``, in the order in which they were given.
        trials: in the order in which they were measured.
        storage: where it is kept; ``None`` in memory.
        note: why the search ended before its budget, or what is wrong with what it found; else empty.
        optuna: the same study as an ``optuna.Study``, for Optuna's own tools. A config that was measured again has
            one of Optuna's trials for each time.
    """

    space: Space
    directions: Mapping[str, Direction]
    trials: Sequence[Trial]
    storage: str | None = field(default=None, repr=False)  # may hold a password
    note: str = ""
    optuna: Any = None

    @property
    def front(self) -> list[Trial]:
        """The feasible trials that no other feasible one dominates, the best in the first objective first."""
        return front_of(self.trials, self.directions)

    def hypervolume(self, reference: Mapping[str, float] | None = None) -> float:
        """Return how much the front dominates.

        Args:
            reference: a value of every objective that is worse than all of interest; the result is then the volume
                between it and the front, in the product of the objectives' units. Without it, the result is the share
                of the box between the best and the worst value of each objective among the feasible trials: from 0
                to 1, for watching a search, and not for comparing studies.

        Raises:
            UnknownNameError: ``reference`` lacks an objective, or names another.
            WrongShapeError: it has no names.
        """
        if reference is None:
            return share(self.trials, self.directions)
        if not isinstance(reference, Mapping):
            example = dict.fromkeys(self.directions, 1.0)
            raise WrongShapeError(
                f"the reference is a value of every objective by name, such as {example}, got {reference!r}"
            )
        for name in (*reference, *self.directions):
            if name not in self.directions:
                raise unknown("objective", name, self.directions)
            if name not in reference:
                raise unknown("reference value", name, reference)
        corner = _minimised(reference, self.directions)
        points = [_minimised(trial.values, self.directions) for trial in self.trials if trial.feasible]
        return hypervolume(np.array(points).reshape(-1, len(corner)), np.array(corner))

    def best(self, name: str) -> Trial:
        """Return the feasible trial that is best in the objective ``name``; the earliest of equals.

        Raises:
            UnknownNameError: there is no such objective.
            PliantError: no trial is feasible.
        """
        if name not in self.directions:
            raise unknown("objective", name, self.directions)
        trials = [trial for trial in self.trials if trial.feasible]
        if not trials:
            failed = sum(trial.state == "failed" for trial in self.trials)
            raise PliantError(
                f"no trial of this study is feasible ({len(self.trials)} trials, {failed} failed, the others break a "
                "constraint): loosen the constraints or raise the budget"
            )
        sign = 1 if self.directions[name] == "min" else -1
        return min(trials, key=lambda trial: (sign * trial.values[name], trial.number))

    def __repr__(self) -> str:  # of hundreds of trials, a notebook would show every one
        failed = sum(trial.state == "failed" for trial in self.trials)
        told = f"{len(self.trials)} trials" + (f", {failed} of them failed" if failed else "")
        goals = " and ".join(f"{name} ({direction})" for name, direction in self.directions.items())
        return f"Study({told}, {len(self.front)} on the front of {goals}; {self.space!r})"

    @classmethod
    def load(cls, storage: str | Path) -> Study:
        """Read a study from its file or URL, without its family, and without changing it.

        Raises:
            CorruptFileError: the file does not hold a study.
            PliantError: there is no such file, or it cannot be read.
        """
        with Store.open(storage, create=False) as store:
            return cls.of(store)

    @classmethod
    def of(cls, store: Store, note: str = "") -> Study:
        """Make the study that ``store`` holds."""
        plan = store.plan()
        return cls(
            space=Space.from_json(plan["space"]),
            directions={name: direction for name, direction, _ in plan["objectives"]},
            trials=assembled(store.records(), plan),
            storage=store.given,
            note=note,
            optuna=store.optuna,
        )


def front_of(trials: Sequence[Trial], directions: Mapping[str, Direction]) -> list[Trial]:
    """Return the feasible ones of ``trials`` that no other feasible one dominates, by the first objective."""
    feasible = [trial for trial in trials if trial.feasible]
    if not feasible:
        return []
    points = np.array([_minimised(trial.values, directions) for trial in feasible])
    kept = [trial for trial, keep in zip(feasible, non_dominated(points), strict=True) if keep]
    return sorted(kept, key=lambda trial: (*_minimised(trial.values, directions), trial.number))


def share(trials: Sequence[Trial], directions: Mapping[str, Direction]) -> float:
    """Return the share of the box of all feasible ``trials`` that they dominate; 0 where it has no volume."""
    points = np.array([_minimised(trial.values, directions) for trial in trials if trial.feasible])
    if not len(points):
        return 0.0
    low, high = points.min(axis=0), points.max(axis=0)
    if not (high > low).all():
        return 0.0
    return hypervolume((points - low) / (high - low), np.ones(points.shape[1]))


def _minimised(values: Mapping[str, float], directions: Mapping[str, Direction]) -> list[float]:
    return [values[name] if direction == "min" else -values[name] for name, direction in directions.items()]
