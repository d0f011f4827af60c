"""One config that was measured, or failed to be."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from ..measure import Measurement
from ..space import Config


@dataclass(frozen=True)
class Trial:
    """A config with what came of measuring it.

    Attributes:
        number: its place in the study, from 0, in the order in which they were finished; trials that a kill
            interrupted have none.
        config: what was measured.
        values: objective name to value, in the objective's own direction and unit; empty when it failed.
        measurements: every measurement behind the values, and those of the extras.
        state: ``"complete"`` or ``"failed"``.
        error: why it failed; empty when complete.
        violation: 0 where every constraint holds, else the sum of the relative excesses; infinite when it failed.
    """

    number: int
    config: Config
    values: Mapping[str, float] = field(default_factory=dict)
    measurements: Mapping[str, Measurement] = field(default_factory=dict, repr=False)
    state: Literal["complete", "failed"] = "complete"
    error: str = ""
    violation: float = 0.0

    def __hash__(self) -> int:  # of what mappings that cannot be hashed do not belong to
        return hash((self.number, self.config, self.state, self.violation))

    @property
    def feasible(self) -> bool:
        """Whether it is complete and keeps every constraint."""
        return self.state == "complete" and self.violation == 0

    @property
    def times(self) -> int:
        """How often it was measured; its values are means then, and each of them is in the measurements' details."""
        return max((int(each.details.get("measured", 1)) for each in self.measurements.values()), default=1)

    @property
    def imported(self) -> str:
        """The file that its values were read from; empty where the study measured them."""
        return str(next((each.details.get("imported", "") for each in self.measurements.values()), ""))
