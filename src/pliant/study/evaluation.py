"""Measuring one config: the part of a search that a worker does, wherever it is."""

from __future__ import annotations

import math
import random
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from torch import nn

from ..checks import MissingExtraError
from ..graph.prepare import seeded
from ..measure import Measurement, Objective, machine
from ..space import Config, Space


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
class Outcome:
    """What came of measuring a config.

    Attributes:
        measurements: by the objectives' names; empty where it failed.
        error: why it failed.
        fatal: why nothing can be measured at all on this machine, such as a missing extra.
    """

    measurements: Mapping[str, Measurement] = field(default_factory=dict)
    error: str = ""
    fatal: str = ""


@dataclass(frozen=True, eq=False)
class Evaluation:
    """What is measured of every config, and on what.

    Attributes:
        family: gives the members.
        objectives: everything that is measured, extras included.
        seed: of torch, numpy and ``random`` in every measurement; restored after it.
    """

    family: Searchable
    objectives: tuple[Objective, ...]
    seed: int = 0

    def measure(self, config: Config, repeat: int = 0) -> Outcome:
        """Measure ``config``; ``repeat`` counts from 0, and each has random numbers of its own."""
        seed = self.seed + repeat
        try:
            with _seeded(seed):
                member = self.family.ready(config)
                found = {each.name: self._one(each, member, seed) for each in self.objectives}
        except MissingExtraError as error:  # the machine's fault, not the config's
            return Outcome(fatal=str(error))
        except Exception as error:  # noqa: BLE001 - whatever a user's evaluation raises
            return Outcome(error=_described(error))
        for name, measurement in found.items():
            if not math.isfinite(measurement.value):
                return Outcome(error=f"objective {name!r} is {measurement.value}, expected a finite number")
        return Outcome(found)

    def _one(self, objective: Objective, member: nn.Module, seed: int) -> Measurement:
        found: Any = objective.measure(member)
        if not isinstance(found, Measurement):
            raise TypeError(
                f"objective {objective.name!r} returned {found!r} from measure(), expected a pliant.Measurement"
            )
        return replace(found, details={"machine": machine(), "seed": seed, "repeats": 1, **found.details})


def _described(error: Exception) -> str:
    place = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__}: {error} ({Path(place.filename).name}, line {place.lineno})"


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Give every measurement the same random numbers, so that a resumed study does as one never killed."""
    python, legacy = random.getstate(), np.random.get_state()  # noqa: NPY002
    with seeded(seed):
        try:
            random.seed(seed)
            np.random.seed(seed % 2**32)  # noqa: NPY002
            yield
        finally:
            random.setstate(python)
            np.random.set_state(legacy)  # noqa: NPY002
