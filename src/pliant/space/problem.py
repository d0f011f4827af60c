"""What a searcher is asked to solve, in plain arrays."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeAlias

from ..checks import WrongShapeError
from .config import Config
from .space import Space

if TYPE_CHECKING:
    import numpy as np

Count: TypeAlias = "Callable[[np.ndarray], np.ndarray]"
"""Option indices (n, choices) to one number each (n,), computed and not measured."""


@dataclass(frozen=True)
class Forms:
    """Which configs are the same network.

    Attributes:
        canonical: maps option indices (n, choices) to those of the configs that stand for the same networks.
        active: tells which choices matter, (n, choices) of bools: one inside a part that is left out does not; ``None``
            where that is not known.
    """

    canonical: Callable[[np.ndarray], np.ndarray]
    active: Callable[[np.ndarray], np.ndarray] | None = None


@dataclass(frozen=True)
class Problem:
    """A space with what is to be minimised over it, and what is known of its configs without measuring them.

    Configs appear in arrays as option indices, (n, choices) of ints: see :meth:`Space.indices`.

    Attributes:
        space: the configs to choose from.
        objectives: how many values a measurement gives; all are minimised.
        seed: of everything random in the search.
        exact: position of an objective to a function that computes it: its values need no prediction.
        statistics: name to a function that computes a free, positive number of a config, such as its MACs. They help
            to predict what must be measured.
        forms: which configs are the same network, and which of their choices matter; ``None`` where every config is
            its own.
        violation: computes by how much a config breaks those constraints that need no measurement, 0 where it breaks
            none; ``None`` where there are none. Constraints on measured values show in what the searcher is told.
    """

    space: Space
    objectives: int = 1
    seed: int = 0
    exact: Mapping[int, Count] = field(default_factory=dict)
    statistics: Mapping[str, Count] = field(default_factory=dict)
    forms: Forms | None = None
    violation: Count | None = None

    def __post_init__(self) -> None:
        if self.objectives < 1:
            raise WrongShapeError(f"a search needs at least one objective, got {self.objectives}")
        beyond = [position for position in self.exact if not 0 <= position < self.objectives]
        if beyond:
            raise WrongShapeError(f"there are {self.objectives} objectives, so none at position {beyond[0]}")

    @property
    def canonical(self) -> Callable[[np.ndarray], np.ndarray] | None:
        """What maps configs to those that stand for the same networks, where several may."""
        return None if self.forms is None else self.forms.canonical

    @property
    def active(self) -> Callable[[np.ndarray], np.ndarray] | None:
        """What tells which choices of a config matter, where not all always do."""
        return None if self.forms is None else self.forms.active

    def same(self, configs: Sequence[Config]) -> list[Config]:
        """Return for each config the one that stands for its network."""
        if self.canonical is None or not configs:
            return list(configs)
        return self.space.configs(self.canonical(self.space.indices(configs)))
