"""Peak memory of inference, counted from tensors and therefore the same on every run and machine."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from .inference import Args, Kwargs, batch_size, evaluating, placed, tensors_of
from .measurement import Measurement
from .objective import Objective
from .weights import memory_of


@dataclass(frozen=True, eq=False)
class PeakMemory(Objective):
    """The most bytes alive at one time in a forward pass without gradients.

    That is the weights and buffers (tied ones once; of a member that aliases a family, its own share), the example
    arguments, and the outputs of every operation from the moment it returns to the moment Python lets go of them.
    It does not see the scratch space inside a kernel, the allocator's rounding, torch itself or other runtimes'
    buffer plans, so a process shows more; but it is exact for what it counts, and does not vary.
    """

    example_args: Args
    example_kwargs: Kwargs | None = None
    name = "memory"
    unit = "bytes"

    def measure(self, member: nn.Module) -> Measurement:
        """Measure ``member``; see the class."""
        args, kwargs = placed(member, self.example_args, self.example_kwargs)
        weights = _bytes([*member.parameters(), *member.buffers()])
        inputs = _bytes(tensors_of((args, kwargs)))
        tracker = _LiveBytes([*member.parameters(), *member.buffers(), *tensors_of((args, kwargs))])
        collecting = gc.isenabled()
        gc.disable()  # a collection at a chance moment would free cycles early and lower the peak
        try:
            with evaluating(member), tracker:
                member(*args, **kwargs)
        finally:
            if collecting:
                gc.enable()
        details = {"weights": weights, "inputs": inputs, "activations": tracker.peak, "batch": batch_size(args, kwargs)}
        return Measurement(float(weights + inputs + tracker.peak), self.unit, details=details)


class _LiveBytes(TorchDispatchMode):
    """Follows the storages that operations make; ``peak`` is the most bytes of them alive at once."""

    def __init__(self, known: Iterable[torch.Tensor]) -> None:
        super().__init__()
        self.live = 0
        self.peak = 0
        self._seen: dict[int, Any] = {}
        self._kept = [tensor.untyped_storage() for tensor in known]  # held, so that their addresses stay theirs
        self._before = {storage._cdata for storage in self._kept}

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in tensors_of(result):
            self._follow(tensor.untyped_storage())
        self.peak = max(self.peak, self.live)
        return result

    def _follow(self, storage: torch.UntypedStorage) -> None:
        key = storage._cdata
        if key in self._before or key in self._seen:
            return
        size = storage.nbytes()
        self.live += size

        def gone() -> None:
            self.live -= size
            del self._seen[key]

        self._seen[key] = weakref.finalize(storage, gone)


def _bytes(tensors: Iterable[torch.Tensor]) -> int:
    """Bytes of distinct tensors: shared memory counts once."""
    return sum({memory_of(tensor): tensor.numel() * tensor.element_size() for tensor in tensors}.values())
