"""The memory of inference under a plan, as on devices whose every byte is planned beforehand."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import nn

from ..graph.schedule import one_sample, plan_memory, record
from .inference import Args, Kwargs, placed
from .measurement import Measurement
from .objective import Objective

if TYPE_CHECKING:
    from ..space.problem import Count

_FEW = 512  # configs: where a space has more, planning all of them to see whether any fits would take too long


@dataclass(frozen=True, eq=False)
class PlannedMemory(Objective):
    """The bytes of the one buffer that a forward pass of one sample needs, when its memory is planned.

    Inputs, results and everything between lie in the buffer (:func:`pliant.graph.schedule.plan_memory`): operations
    on tokens, rows of patches and the like are joined and computed part by part, and results overwrite inputs that
    nothing reads any more. ``details`` has the ``weights`` that the pass reads, and what the buffer would be with each
    operation by itself and no overwriting (``unplanned``). Scratch space inside a kernel is not seen. An image in
    channels-last order can be overwritten row by row, one in channels-first order only if it has one channel.

    Attributes:
        example_args: positional arguments of the forward pass; of a batch, the first sample is taken.
        example_kwargs: keyword arguments likewise.
        weights: add the weights, for a device that has them in the same memory; else they are read where they are
            stored.
    """

    example_args: Args
    example_kwargs: Kwargs | None = None
    weights: bool = False
    name = "planned_memory"
    unit = "bytes"

    def measure(self, member: nn.Module) -> Measurement:
        """Measure ``member``; see the class."""
        tape = record(member, *one_sample(*placed(member, self.example_args, self.example_kwargs)))
        plan = plan_memory(tape)
        details = {
            "buffer": plan.peak,
            "weights": tape.weights,
            "unplanned": plan_memory(tape, fuse=False, overwrite=False).peak,
            "steps": len(plan.steps),
            "batch": 1,
        }
        return Measurement(float(plan.peak + (tape.weights if self.weights else 0)), self.unit, details=details)

    def count(self, family: Any) -> Count | None:
        """Return the same for option indices, where the space is small enough to plan all its members."""
        if getattr(family, "space", None) is None or family.space.size > _FEW:
            return None
        known: dict[Any, float] = {}
        member = getattr(family, "evaluated", family.ready)  # what ships costs the same, but is dearer to make

        def counted(indices: np.ndarray) -> np.ndarray:
            configs = family.space.configs(indices)
            for config in configs:
                if config not in known:
                    known[config] = self.measure(member(config)).value
            return np.array([known[config] for config in configs])

        return counted
