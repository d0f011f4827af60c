"""Running a memory plan: every tensor of the pass lies in one buffer, where the plan put it.

The weights are outside. Whatever is not alive is filled with ones in every bit (not-a-number, for floating point), so
that a plan that frees or overwrites something too early shows in the result.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from ...checks import VerificationError
from .plan import MemoryPlan, aligned
from .rows import compute
from .steps import Step
from .tape import Operation, Ref


class Arena:
    """One buffer of bytes that is given out and taken back.

    Attributes:
        peak: the end of the highest byte that was ever given out.
    """

    def __init__(self, size: int) -> None:
        self.memory = torch.full((size,), 255, dtype=torch.uint8)
        self.peak = 0
        self._held: dict[Any, tuple[int, int]] = {}

    def take(self, name: Any, start: int, size: int, over: Any = None) -> None:
        """Give out ``size`` bytes from ``start`` on under a name, perhaps in the place of what ``over`` has.

        Raises:
            VerificationError: some of them are in use, or beyond the buffer.
        """
        if start + size > len(self.memory):
            raise VerificationError(f"bytes {start} to {start + size} lie outside the buffer of {len(self.memory)}")
        for other, (begin, end) in self._held.items():
            if other != over and start < end and begin < start + size:
                raise VerificationError(f"bytes {start} to {start + size} for {name} are in use by {other}")
        self._held[name] = (start, start + size)
        self.peak = max(self.peak, start + size)

    def give_back(self, name: Any) -> None:
        """Take bytes back, and spoil what was in them unless something else lies there too."""
        start, end = self._held.pop(name)
        held = torch.zeros(end - start, dtype=torch.bool)
        for begin, stop in self._held.values():
            if begin < end and start < stop:
                held[max(begin, start) - start : min(stop, end) - start] = True
        self.memory[start:end][~held] = 255


def simulate(plan: MemoryPlan) -> tuple[Any, int]:
    """Compute the pass of a plan on its own inputs, inside one buffer of ``plan.peak`` bytes.

    Returns:
        What the network gives, and the peak of the buffer: the highest byte that was used.

    Raises:
        VerificationError: the plan gives out bytes that are in use.
    """
    return _Run(plan).go()


class _Run:
    def __init__(self, plan: MemoryPlan) -> None:
        self.plan, self.tape, self.arena = plan, plan.tape, Arena(plan.peak)

    def go(self) -> tuple[Any, int]:
        with torch.no_grad():
            for value, tensor in self.tape.inputs.items():
                storage = self.tape.values[value].storage
                if (storage,) not in self.arena._held:
                    self.arena.take((storage,), self.plan.places[storage].offset, aligned(self.tape.sizes[storage]))
                self._tensor(value).copy_(tensor)
            for at, step in enumerate(self.plan.steps):
                self._step(at, step)
            result = pytree.tree_map_only(Ref, lambda ref: self._tensor(ref.value).clone(), self.tape.result)
        return result, self.arena.peak

    def _step(self, at: int, step: Step) -> None:
        plan, arena = self.plan, self.arena
        old = plan.overwrites.get(at)
        for storage in step.storages:
            if plan.places[storage].first == at:
                over = (old,) if old is not None else None
                arena.take((storage,), plan.places[storage].offset, aligned(self.tape.sizes[storage]), over)
        room = plan.scratch[at]
        if room.size:
            arena.take("scratch", room.start, room.size)
        if step.parts == 1:
            self._whole(step)
        else:
            larger = old is not None and self.tape.sizes[step.storages[0]] > self.tape.sizes[old]
            for part in reversed(range(step.parts)) if larger else range(step.parts):
                self._part(at, step, part)
        if room.size:
            arena.give_back("scratch")
        for storage, place in plan.places.items():
            if place.last == at and at < len(plan.steps) - 1 and (storage,) in arena._held:
                arena.give_back((storage,))

    def _whole(self, step: Step) -> None:
        operation = step.last
        args, kwargs = pytree.tree_map_only(Ref, lambda ref: self._tensor(ref.value), operation.args)
        made = pytree.tree_leaves(operation.target(*args, **kwargs))
        tensors = [leaf for leaf in made if isinstance(leaf, Tensor)]
        for value, tensor in zip(operation.makes, tensors, strict=True):
            if self.tape.values[value].storage in step.storages:
                self._tensor(value).copy_(tensor)

    def _part(self, at: int, step: Step, part: int) -> None:
        """Compute one part of a step; what is inside it lies in the scratch."""
        room, out = self.plan.scratch[at], step.last.makes[0]
        known: dict[int, Tensor] = {}
        for operation in step.operations:
            given = [known[v] if v in known else self._cut(step, v, part) for v in operation.reads]
            result = self._computed(step, operation, given)
            for value, tensor in zip(operation.makes, result, strict=True):
                known[value] = tensor
                if operation.view and not _inside(tensor, self.arena.memory):
                    raise VerificationError(f"the view {operation.name} has copied its part: plan it as a step")
                if value in room.offsets:
                    known[value] = self._kept(room.start + room.offsets[value], tensor)
        self._cut(step, out, part).copy_(known[out])

    def _computed(self, step: Step, operation: Operation, given: list[Tensor]) -> list[Tensor]:
        """Compute one part of an operation inside a step."""
        out = next((value for value in operation.makes if value in step.within), step.last.makes[0])
        dim = step.within[out] if out in step.within else step.cuts[out]
        result = compute(self.tape, operation, given, out, dim, step.parts)
        return [leaf for leaf in pytree.tree_leaves(result) if isinstance(leaf, Tensor)]

    def _kept(self, start: int, tensor: Tensor) -> Tensor:
        """Copy a part into the scratch, its dimensions in the same order in memory."""
        size = aligned(tensor.numel() * tensor.element_size())
        room = self.arena.memory[start : start + size].view(tensor.dtype)
        like = torch.empty_like(tensor, memory_format=torch.preserve_format)
        kept = torch.as_strided(room, like.shape, like.stride(), room.storage_offset())
        return kept.copy_(tensor)

    def _cut(self, step: Step, value: int, part: int) -> Tensor:
        tensor = self._tensor(value)
        if value not in step.cuts:
            return tensor
        dim = step.cuts[value]
        size = tensor.shape[dim] // step.parts
        return tensor.narrow(dim, part * size, size)

    def _tensor(self, value: int) -> Tensor:
        if value in self.tape.constants:
            return self.tape.constants[value]
        found = self.tape.values[value]
        start = self.plan.places[found.storage].offset
        room = self.arena.memory[start : start + aligned(self.tape.sizes[found.storage])].view(found.dtype)
        return torch.as_strided(room, found.shape, found.stride, room.storage_offset() + found.offset)


def _inside(tensor: Tensor, memory: Tensor) -> bool:
    return tensor.untyped_storage()._cdata == memory.untyped_storage()._cdata
