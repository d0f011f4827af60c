"""The record of a search."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..checks import PliantError, unknown
from ..measure import Direction
from ..space import Space
from ..space.front import non_dominated
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
        note: why the search ended before its budget; else empty.
        optuna: the same study as an ``optuna.Study``, for Optuna's own tools.
    """

    space: Space
    directions: Mapping[str, Direction]
    trials: Sequence[Trial]
    storage: str | None = None
    note: str = ""
    optuna: Any = None

    @property
    def front(self) -> list[Trial]:
        """The feasible trials that no other feasible one dominates, the best in the first objective first."""
        trials = [trial for trial in self.trials if trial.feasible]
        if not trials:
            return []
        mask = non_dominated(np.array([self._minimised(trial) for trial in trials]))
        kept = [trial for trial, keep in zip(trials, mask, strict=True) if keep]
        return sorted(kept, key=lambda trial: (*self._minimised(trial), trial.number))

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

    def _minimised(self, trial: Trial) -> list[float]:
        return [
            trial.values[name] if direction == "min" else -trial.values[name]
            for name, direction in self.directions.items()
        ]

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
            trials=store.trials(),
            storage=store.where,
            note=note,
            optuna=store.optuna,
        )
