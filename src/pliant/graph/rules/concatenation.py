"""`cat`, `split`, `chunk`, `slice`, `stack`, `unbind` and `glu`: dimensions made of segments."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from ..dims import Conflict, Dim, concat
from ..trace import Call, Dims, Tracer

Size = Callable[[Dim], Any]


def cat(t: Tracer, call: Call) -> None:
    """`cat(tensors, dim)`; empty 1-D tensors count for nothing."""
    dims = [d for d in (t.of(tensor) for tensor in call.first) if not (len(d) == 1 and d[0].root().size == 0)]
    _join(t, call, dims, (call.get("dim") or 0) % len(dims[0]))


def sides(t: Tracer, call: Call) -> None:
    """`hstack`, `column_stack`, `vstack` of tensors that have the dimension: concatenations."""
    dims = [t.of(tensor) for tensor in call.first]
    if min(map(len, dims)) < 2:
        raise Conflict(f"{call.name} of vectors")
    _join(t, call, dims, 0 if call.name in ("vstack", "row_stack") else 1)


def _join(t: Tracer, call: Call, dims: list[Dims], axis: int) -> None:
    out: Dims = []
    for i, first in enumerate(dims[0]):
        if i == axis:
            out.append(concat([d[i] for d in dims]))
            continue
        for other in dims[1:]:
            t.tie(first, other[i], call.node)
        out.append(first)
    t.set(call, out)


def split(t: Tracer, call: Call) -> None:
    """`split`, `split_with_sizes`, `chunk`, `tensor_split`: one output per segment."""
    x = t.of(call.first)
    axis = call["dim"] % len(x)
    segments = t.segments(x[axis], [int(part.shape[axis]) for part in call.out], call.node)
    t.set(call, [[*x[:axis], part, *x[axis + 1 :]] for part in segments])


def slice_(t: Tracer, call: Call) -> None:
    """`slice(x, dim, start, end, step)`: a segment, or with a step one of the inner units of a product."""
    x = t.of(call.first)
    axis = (call.get("dim") or 0) % len(x)
    size, taken, step = x[axis].root().size, int(call.out.shape[axis]), int(call.get("step") or 1)
    if taken == size:
        t.set(call, x)
        return
    start = int(call.get("start") or 0)
    start = max(start + size, 0) if start < 0 else start
    if step == 1:
        before, part, _ = t.segments(x[axis], [start, taken, size - start - taken], call.node)
        t.notes[call.node] = [before, part]
    elif size % step == 0 and taken == size // step and start < step:
        part, inner = t.factors(x[axis], [taken, step], call.node)
        t.freeze(inner, "order", "its units are taken by their place", call.node)
    else:
        raise Conflict(f"a slice of every {step}-th of {size} units")
    t.set(call, [*x[:axis], part, *x[axis + 1 :]])


def narrow(t: Tracer, call: Call) -> None:
    """`narrow(x, dim, start, length)`: a segment."""
    x = t.of(call.first)
    axis, start, length = call["dim"] % len(x), int(call["start"]), int(call["length"])
    size = x[axis].root().size
    start = start + size if start < 0 else start
    before, part, _ = t.segments(x[axis], [start, length, size - start - length], call.node)
    t.notes[call.node] = [before, part]
    t.set(call, [*x[:axis], part, *x[axis + 1 :]])


def select(t: Tracer, call: Call) -> None:
    """`select(x, dim, index)`: the units of the dimension are told apart by their place."""
    x = t.of(call.first)
    axis = call["dim"] % len(x)
    t.freeze(x[axis], "order", "its units are taken by their place", call.node)
    t.set(call, [*x[:axis], *x[axis + 1 :]])


def unbind(t: Tracer, call: Call) -> None:
    """`unbind(x, dim)`: like a `select` of each."""
    x = t.of(call.first)
    axis = call["dim"] % len(x)
    t.freeze(x[axis], "order", "its units are taken by their place", call.node)
    t.set(call, [[*x[:axis], *x[axis + 1 :]] for _ in call.out])


def stack(t: Tracer, call: Call) -> None:
    """`stack(tensors, dim)`: a new dimension that counts the tensors."""
    dims = [t.of(tensor) for tensor in call.first]
    for other in dims[1:]:
        for a, b in zip(dims[0], other, strict=True):
            t.tie(a, b, call.node)
    axis = (call.get("dim") or 0) % (len(dims[0]) + 1)
    count = t.fixed([len(dims)], "stack", "the number of stacked parts", call.node)
    t.set(call, [*dims[0][:axis], *count, *dims[0][axis:]])


def glu(t: Tracer, call: Call) -> None:
    """`glu(x, dim)`: the first half times the sigmoid of the second."""
    x = t.of(call.first)
    axis = call["dim"] % len(x)
    half = x[axis].root().size // 2
    a, b = t.segments(x[axis], [half, half], call.node)
    t.tie(a, b, call.node)
    t.set(call, [*x[:axis], a, *x[axis + 1 :]])


# ---- size arguments ------------------------------------------------------------------------------------------------
def resize_split(t: Tracer, call: Call, size: Size) -> dict[str, Any]:
    """Write the sizes of all segments: after a cut they need not be equal, so a count or one size won't do."""
    axis = call["dim"] % len(t.of(call.first))
    return {
        "target": torch.ops.aten.split_with_sizes.default,
        "args": (call.first, [size(part[axis]) for part in t.dims[call.node]], axis),
    }


def resize_slice(t: Tracer, call: Call, size: Size) -> dict[str, Any]:
    """Write where the segment now starts and ends; one that takes the whole dimension goes on doing so."""
    if call.node in t.notes:
        before, part = t.notes[call.node]
        first = size(before) if before.root().size else 0
        return {"start": first, "end": first + size(part)}
    return {} if int(call.get("step") or 1) != 1 else {"start": 0, "end": _TO_THE_END}


def resize_narrow(t: Tracer, call: Call, size: Size) -> dict[str, Any]:
    """Write where the segment now starts and how long it is."""
    before, part = t.notes[call.node]
    return {"start": size(before) if before.root().size else 0, "length": size(part)}


_TO_THE_END = 2**63 - 1
_SPLITS = (
    "split",
    "split_with_sizes",
    "chunk",
    "tensor_split",
    "unsafe_chunk",
    "unsafe_split",
    "unsafe_split_with_sizes",
)

RULES = {
    "cat": cat,
    "concat": cat,
    "concatenate": cat,
    "stack": stack,
    **dict.fromkeys(("hstack", "vstack", "row_stack", "column_stack"), sides),
    "slice": slice_,
    "narrow": narrow,
    "select": select,
    "unbind": unbind,
    "glu": glu,
} | dict.fromkeys(_SPLITS, split)
SIZES = dict.fromkeys(_SPLITS, resize_split) | {"slice": resize_slice, "narrow": resize_narrow}
