"""How results lie in memory: parts one after the other, so that a part that was used can be overwritten by the next."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from .steps import Step
from .tape import Operation, Ref, Tape, Value


def part_bytes(tape: Tape, value: int, dim: int, parts: int) -> int | None:
    """Return how many bytes of its storage each part of a value has to itself, the parts in order.

    ``None`` where parts are interleaved, so that writing one would touch others.
    """
    found = tape.values[value]
    size = tape.sizes[found.storage]
    if size % parts:
        return None
    each, width = size // parts, found.dtype.itemsize
    step = found.stride[dim] * (found.shape[dim] // parts) * width
    inside = [
        (extent // parts if at == dim else extent, stride)
        for at, (extent, stride) in enumerate(zip(found.shape, found.stride, strict=True))
    ]
    end = (found.offset + sum((extent - 1) * stride for extent, stride in inside) + 1) * width
    return each if step == each and end <= each else None


def laid_out(tape: Tape, steps: Sequence[Step]) -> Tape:
    """Return the tape with the results of steps stored part by part, where everything that looks at them allows it."""
    for step in steps:
        if step.parts > 1:
            out = step.last.makes[0]
            for order in _orders(tape, out, step.cuts[out]):
                if part_bytes(tape, out, step.cuts[out], step.parts) is None:
                    tape = _reordered(tape, out, order)
    return tape


def _orders(tape: Tape, value: int, first: int) -> list[list[int]]:
    """Return the orders of dimensions to try, outermost in memory first.

    Behind ``first`` come the others as they are, or as in a sequence of tokens: all channels of one, then the next.
    """
    stride = tape.values[value].stride
    others = [dim for dim in range(len(stride)) if dim != first]
    return [
        [first, *sorted(others, key=lambda dim: -stride[dim])],
        [first, *(dim for dim in others if dim > first), *(dim for dim in others if dim < first)],
    ]


def _reordered(tape: Tape, value: int, order: Sequence[int]) -> Tape:
    """Return the tape with the dimensions of a value in another order in memory; as it is where a view forbids it."""
    found = tape.values[value]
    strides, total = [0] * len(order), 1
    for dim in reversed(order):
        strides[dim], total = total, total * found.shape[dim]
    if total * found.dtype.itemsize != tape.sizes[found.storage] or found.offset:
        return tape
    changed = {value: replace(found, stride=tuple(strides))}
    known = {value: _like(changed[value])}
    for operation in tape.operations:
        if not operation.view or not any(v in known for v in operation.reads):
            continue
        made = _seen(tape, operation, known)
        if made is None:
            return tape
        for at, tensor in zip(operation.makes, made, strict=True):
            changed[at] = replace(tape.values[at], stride=tensor.stride(), offset=int(tensor.storage_offset()))
            known[at] = tensor
    everything = {at for at, other in enumerate(tape.values) if other.storage == found.storage}
    used = {at for operation in tape.operations for at in (*operation.reads, *operation.makes)} | {*tape.results}
    if not everything & used <= changed.keys():  # written in place, or seen in a way that is not followed
        return tape
    return replace(tape, values=tuple(changed.get(at, other) for at, other in enumerate(tape.values)))


def _seen(tape: Tape, operation: Operation, known: dict[int, Tensor]) -> list[Tensor] | None:
    """Return the results of a view on tensors without data; ``None`` where it would have to copy."""

    def given(ref: Ref) -> Tensor:
        return known[ref.value] if ref.value in known else _like(tape.values[ref.value])

    args, kwargs = pytree.tree_map_only(Ref, given, operation.args)
    base = next(known[value] for value in operation.reads if value in known)
    try:
        result = operation.target(*args, **kwargs)
    except RuntimeError:  # a view that these strides do not allow
        return None
    made = [leaf for leaf in pytree.tree_leaves(result) if isinstance(leaf, Tensor)]
    same = all(tensor.untyped_storage()._cdata == base.untyped_storage()._cdata for tensor in made)
    return made if same and len(made) == len(operation.makes) else None


def _like(value: Value) -> Tensor:
    """Return a tensor without data that lies as ``value`` does."""
    extent = sum((size - 1) * stride for size, stride in zip(value.shape, value.stride, strict=True))
    memory = torch.empty(value.offset + extent + 1, dtype=value.dtype, device="meta")
    return memory.as_strided(value.shape, value.stride, value.offset)
