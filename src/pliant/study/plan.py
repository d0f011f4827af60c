"""What a search is asked to do, checked before anything is measured."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .. import catalog
from ..checks import WrongShapeError, unknown, whole
from ..measure import Bytes, Measurement, Objective, Params
from ..space import Constraint, Problem, Space
from ..technique import Searcher
from .given import checked_objectives, several
from .problem import problem_of

FREE: dict[str, type[Objective]] = {"params": Params, "bytes": Bytes}
"""Objectives that need no arguments: a constraint may name them without their being asked for."""


@dataclass(frozen=True)
class Plan:
    """The checked arguments of a search. ``extras`` are measured and stored, but not optimised."""

    space: Space
    objectives: tuple[Objective, ...]
    extras: tuple[Objective, ...]
    constraints: tuple[Constraint, ...]
    searcher: Searcher
    seed: int

    @classmethod
    def make(
        cls,
        space: Space,
        objectives: Sequence[Objective],
        *,
        extras: Sequence[Objective] = (),
        constraints: Sequence[str | Constraint] = (),
        searcher: Searcher | None = None,
        seed: int = 0,
    ) -> Plan:
        """Check the arguments of a search.

        Raises:
            WrongShapeError: no objectives, two of one name, or something that is not an objective, a constraint, a seed
                or a searcher.
            UnknownNameError: a constraint on something that is not measured.
        """
        objectives, extras = several(objectives, "objectives"), several(extras, "extras")
        if not objectives:
            raise WrongShapeError("a search needs at least one objective, such as pliant.Params()")
        names = checked_objectives([*objectives, *extras], space)
        parsed = tuple(
            each if isinstance(each, Constraint) else Constraint.parse(each)
            for each in several(constraints, "constraints")
        )
        free = []
        for name in dict.fromkeys(constraint.name for constraint in parsed if constraint.name not in names):
            if name not in FREE:
                raise unknown("measured value (for a constraint)", name, {*names, *FREE})
            free.append(FREE[name]())
        chosen: Any = searcher if searcher is not None else catalog.default("search")
        if isinstance(chosen, type) or not hasattr(chosen, "start"):
            raise WrongShapeError(
                f"a searcher is an instance of a technique of the kind 'search', got {chosen!r}"
                + ("; put () behind it" if isinstance(chosen, type) else "")
            )
        return cls(space, tuple(objectives), (*extras, *free), parsed, chosen, whole(seed, "seed"))

    @property
    def measured(self) -> tuple[Objective, ...]:
        """Everything that is measured of a config: the objectives, then the extras."""
        return (*self.objectives, *self.extras)

    def problem(self, family: Any) -> Problem:
        """Return what the searcher is to solve, with all that ``family`` and the objectives can tell beforehand.

        Raises:
            WrongShapeError: no config can keep the constraints, as counting shows.
        """
        known = [*self.measured, *(kind() for name, kind in FREE.items() if name not in self.names)]
        return problem_of(family, self.objectives, known, self.constraints, self.seed)

    @property
    def names(self) -> tuple[str, ...]:
        """The names of all that is measured."""
        return tuple(each.name for each in self.measured)

    def record(self) -> dict[str, Any]:
        """Return what must be equal for a stored study to be gone on with."""
        return {
            "space": self.space.to_json(),
            "objectives": [[each.name, each.direction, each.unit] for each in self.objectives],
            "extras": [each.name for each in self.extras],
            "settings": {each.name: settings for each in self.measured if (settings := each.settings())},
            "constraints": [str(constraint) for constraint in self.constraints],
            "seed": self.seed,
            "searcher": _identity(self.searcher),
        }

    def minimised(self, values: Mapping[str, float]) -> list[float]:
        """Return objective values as a searcher sees them: smaller is better; infinite where there are none."""
        if not values:
            return [float("inf")] * len(self.objectives)
        return [values[each.name] if each.direction == "min" else -values[each.name] for each in self.objectives]

    def violation(self, measurements: Mapping[str, Measurement]) -> float:
        """Return the sum of the relative excesses over the constraints."""
        found = {name: measurement.value for name, measurement in measurements.items()}
        return sum(constraint.violation(found) for constraint in self.constraints)


def _identity(searcher: Searcher) -> str:
    return repr(searcher) if dataclasses.is_dataclass(searcher) else type(searcher).__name__
