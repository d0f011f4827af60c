"""What a search is asked to do, checked before anything is measured."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from torch import nn

from .. import catalog
from ..checks import WrongShapeError, unknown
from ..measure import Bytes, Objective, Params
from ..space import Config, Constraint, Space
from ..technique import Searcher

_FREE: dict[str, type[Objective]] = {"params": Params, "bytes": Bytes}
"""Objectives that need no arguments: a constraint may name them without their being asked for."""


class Searchable(Protocol):
    """What a search needs of a family."""

    @property
    def space(self) -> Space:
        """The configs to search."""
        ...

    def ready(self, config: Config) -> nn.Module:
        """Return the member of ``config``, ready to be measured."""
        ...


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
        constraints: Sequence[str] = (),
        searcher: Searcher | None = None,
        seed: int = 0,
    ) -> Plan:
        """Check the arguments of a search.

        Raises:
            WrongShapeError: no objectives, two of one name, or something that is not an objective.
            UnknownNameError: a constraint on something that is not measured.
        """
        if not objectives:
            raise WrongShapeError("a search needs at least one objective, such as pliant.Params()")
        for objective in [*objectives, *extras]:
            if not isinstance(objective, Objective):
                raise WrongShapeError(
                    f"an objective is an instance of pliant.Objective, got {objective!r}; wrap a function as "
                    "pliant.Metric('error', function)"
                )
        names = [objective.name for objective in [*objectives, *extras]]
        repeated = {name for name in names if names.count(name) > 1}
        if repeated:
            raise WrongShapeError(f"two objectives are named {min(repeated)!r}: give each its own name")
        parsed = tuple(Constraint.parse(text) for text in constraints)
        free = []
        for name in dict.fromkeys(constraint.name for constraint in parsed if constraint.name not in names):
            if name not in _FREE:
                raise unknown("measured value (for a constraint)", name, {*names, *_FREE})
            free.append(_FREE[name]())
        chosen: Searcher = searcher if searcher is not None else catalog.default("search")  # type: ignore[assignment]
        return cls(space, tuple(objectives), (*extras, *free), parsed, chosen, seed)

    def record(self) -> dict[str, Any]:
        """Return what must be equal for a stored study to be gone on with."""
        return {
            "space": self.space.to_json(),
            "objectives": [[each.name, each.direction, each.unit] for each in self.objectives],
            "extras": [each.name for each in self.extras],
            "constraints": [str(constraint) for constraint in self.constraints],
            "seed": self.seed,
            "searcher": _identity(self.searcher),
        }

    def minimised(self, values: Mapping[str, float]) -> list[float]:
        """Return objective values as a searcher sees them: smaller is better; infinite where there are none."""
        if not values:
            return [float("inf")] * len(self.objectives)
        return [values[each.name] if each.direction == "min" else -values[each.name] for each in self.objectives]


def _identity(searcher: Searcher) -> str:
    return repr(searcher) if dataclasses.is_dataclass(searcher) else type(searcher).__name__
