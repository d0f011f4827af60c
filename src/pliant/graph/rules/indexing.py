"""Tables and indices: what is looked up by its place keeps its number and order; everything else passes on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.fx import Node

from ..constants import constant
from ..dims import Conflict, Dim
from ..trace import Call, Dims, Tracer


def embedding(t: Tracer, call: Call) -> None:
    """`embedding(weight (V, C), indices (...))` gives (..., C)."""
    weight, indices = t.of(call["weight"]), t.of(call["indices"])
    t.freeze(weight[0], "vocabulary", "the rows of a lookup table", call.node)
    t.set(call, [*indices, weight[1]])


def embedding_bag(t: Tracer, call: Call) -> None:
    """`embedding_bag(weight (V, C), indices, offsets)` gives (bags, C), and what its backward pass needs."""
    weight, offsets = t.of(call["weight"]), t.of(call["offsets"])
    t.freeze(weight[0], "vocabulary", "the rows of a lookup table", call.node)
    result, *rest = call.out
    [bags] = t.fixed(result.shape[:1], "order", "the number of bags", call.node)
    if not call["include_last_offset"]:
        t.tie(bags, offsets[0], call.node)
        made = call["offsets"]
        if getattr(made.target, "_opname", "") == "arange":  # rows of one length, joined: a bag for each row
            [joined], count = t.of(call["indices"]), bags.size
            t.tie(bags, t.factors(joined, [count, joined.root().size // count], call.node)[0], call.node)
    others = [t.fixed(each.shape, "order", "units are named by their place", call.node) for each in rest]
    t.set(call, [[bags, weight[1]], *others])


def index(t: Tracer, call: Call) -> None:
    """`x[i, :, j]` with index tensors: indexed dimensions are replaced by the broadcast of the indices."""
    x, indices = t.of(call.first), list(call["indices"])
    used = [i for i, value in enumerate(indices) if isinstance(value, Node)]
    if len(used) == 1 and _neighbours(t, call, x, used[0], indices[used[0]]):
        return
    if any(str(indices[i].meta["val"].dtype) in ("torch.bool", "torch.uint8") for i in used):
        raise Conflict("indexing by a mask")
    for i in used:
        t.freeze(x[i], "vocabulary", "the rows of a lookup table", call.node)
    rank = max(len(t.of(indices[i])) for i in used)
    adjacent = used == list(range(used[0], used[-1] + 1))
    start = used[0] if adjacent else 0
    broadcast: Dims = [Dim(int(size)) for size in call.out.shape[start : start + rank]]
    for i in used:
        dims = t.of(indices[i])
        if _counts(indices[i]):  # `x[arange(n), …]` takes one of each: if n is the batch, it stays so
            for dim in dims:
                if dim.size == x[i].size > 1:
                    t.tie(dim, x[i], call.node)
        for k in range(1, len(dims) + 1):
            if dims[-k].root().size == broadcast[-k].root().size:
                t.tie(broadcast[-k], dims[-k], call.node)
    rest = [dim for i, dim in enumerate(x) if i not in used]
    t.set(call, [*rest[:start], *broadcast, *rest[start:]])


def _neighbours(t: Tracer, call: Call, x: Dims, axis: int, index: Node) -> bool:
    """Follow `x[..., [2, 3]]`: places that are written in the code and stand side by side are a segment that stays."""
    places = constant(t, index)
    size = x[axis].root().size
    if places is None or places.dtype == torch.bool or places.dim() != 1 or not 0 < len(places) < size:
        return False
    wanted = [int(place) + size * (int(place) < 0) for place in places]
    if wanted != list(range(wanted[0], wanted[0] + len(wanted))):
        return False
    before, part, _ = t.segments(x[axis], [wanted[0], len(wanted), size - wanted[0] - len(wanted)], call.node)
    t.freeze(part, "order", "its units are taken by their place", call.node)
    t.notes[call.node] = [before, part]
    t.set(call, [*x[:axis], part, *x[axis + 1 :]])
    return True


def resize_index(t: Tracer, call: Call, size: Callable[[Dim], Any]) -> dict[str, Any]:
    """Turn places side by side into a slice: after a cut they stand elsewhere."""
    if call.node not in t.notes:
        return {}
    before, part = t.notes[call.node]
    axis = next(i for i, value in enumerate(call["indices"]) if isinstance(value, Node))
    first = size(before) if before.root().size else 0
    return {"target": torch.ops.aten.slice.Tensor, "args": (call.first, axis, first, first + size(part))}


def _counts(node: Node) -> bool:
    """Tell whether an index is an `arange` from 0, perhaps with more dimensions of size 1."""
    names = ("unsqueeze", "view", "reshape", "to", "_to_copy", "expand")
    while getattr(node.target, "_opname", "") in names and isinstance(node.args[0], Node):
        node = node.args[0]
    if getattr(node.target, "_opname", "") != "arange":
        return False
    call = Call(node)
    return not call.get("start") and (call.get("step") or 1) == 1


def index_select(t: Tracer, call: Call) -> None:
    """`index_select(x, dim, index)`."""
    x = t.of(call.first)
    axis = call["dim"] % len(x)
    t.freeze(x[axis], "vocabulary", "the rows of a lookup table", call.node)
    t.set(call, [*x[:axis], t.of(call["index"])[0], *x[axis + 1 :]])


def ordered(t: Tracer, call: Call) -> None:
    """`cumsum`, `flip`, `roll`, `sort` …: along the dimension the order of the units counts, so it is kept."""
    x = t.of(call.first)
    dims = call.get("dims", call.get("dim"))
    if dims is None or len(dims if isinstance(dims, (list, tuple)) else [dims]) == 0:
        dims = range(len(x))  # `roll` without dimensions rolls the flattened tensor
    for i in [dims] if isinstance(dims, int) else dims:
        t.freeze(x[i], "order", "the order of its units counts", call.node)
    t.set(call, [list(x) for _ in call.out] if isinstance(call.out, (list, tuple)) else x)


def mirrored(t: Tracer, call: Call) -> None:
    """`flipud`, `fliplr`: along the first (second) dimension the order of the units counts, so it is kept."""
    x = t.of(call.first)
    t.freeze(x[call.name == "fliplr"], "order", "the order of its units counts", call.node)
    t.set(call, x)


def triangle(t: Tracer, call: Call) -> None:
    """`tril`, `triu`: the last two dimensions are compared by place."""
    x = t.of(call.first)
    for dim in x[-2:]:
        t.freeze(dim, "order", "the order of its units counts", call.node)
    t.set(call, x)


def gather(t: Tracer, call: Call) -> None:
    """`gather(x, dim, index)`: along ``dim`` rows are looked up; elsewhere index and source go side by side.

    `take_along_dim` does the same, and broadcasts both, which is followed where neither is.
    """
    x, indices = t.of(call.first), t.of(call["index"] if "index" in call.args else call["indices"])
    if call["dim"] is None or list(call.out.shape) != [dim.root().size for dim in indices]:
        raise Conflict("places of the flattened tensor, or of a broadcast one")
    axis = call["dim"] % len(x)
    for i, (dim, place) in enumerate(zip(x, indices, strict=True)):
        if i == axis:
            t.freeze(dim, "order", "its units are gathered by their place", call.node)
        elif dim.root().size == place.root().size:
            t.tie(dim, place, call.node)
        else:
            t.freeze(dim, "order", "its units are taken by their place", call.node)
            t.freeze(place, "order", "its units are taken by their place", call.node)
    t.set(call, indices)


def diff(t: Tracer, call: Call) -> None:
    """`diff(x, dim)`: neighbours are subtracted, so along the dimension the order counts."""
    x = t.of(call.first)
    axis = call["dim"] % len(x)
    others = [t.of(call[name]) for name in ("prepend", "append") if call.get(name) is not None]
    for dims in (x, *others):
        t.freeze(dims[axis], "order", "the order of its units counts", call.node)
        for i, dim in enumerate(dims):
            if i != axis:
                t.tie(x[i], dim, call.node)
    x[axis] = t.fixed([call.out.shape[axis]], "order", "the order of its units counts", call.node)[0]
    t.set(call, x)


def topk(t: Tracer, call: Call) -> None:
    """`topk(x, k, dim)`: the units are ranked and named by their place."""
    x = t.of(call.first)
    axis = call["dim"] % len(x)
    t.freeze(x[axis], "order", "its units are named by their place", call.node)
    x[axis] = t.fixed([call.out[0].shape[axis]], "order", "the best few of its units", call.node)[0]
    t.set(call, [list(x), list(x)])


def one_hot(t: Tracer, call: Call) -> None:
    """`one_hot(x, n)`: a new dimension whose units are named by their place."""
    t.set(call, [*t.of(call.first), *t.fixed(call.out.shape[-1:], "order", "its units are counted", call.node)])


def unfold(t: Tracer, call: Call) -> None:
    """`x.unfold(dim, size, step)`: windows along the dimension, whose order counts."""
    x = t.of(call.first)
    axis = call["dimension"] % len(x)
    t.freeze(x[axis], "order", "the order of its units counts", call.node)
    count, window = t.fixed([call.out.shape[axis], call.out.shape[-1]], "order", "windows of it are taken", call.node)
    t.set(call, [*x[:axis], count, *x[axis + 1 :], window])


def histogram(t: Tracer, call: Call) -> None:
    """`histc(x, bins)`, `bincount(x)`: how often values come says nothing of their places, but all of them count."""
    for dim in t.of(call.first):
        t.freeze(dim, "order", "all its units are counted", call.node)
    t.set(call, t.fixed(call.out.shape, "order", "its units are counted", call.node))


RULES = {
    "embedding": embedding,
    "embedding_bag": embedding_bag,
    "index": index,
    "index_select": index_select,
    "gather": gather,
    "take_along_dim": gather,
    "flipud": mirrored,
    "fliplr": mirrored,
    "tril": triangle,
    "triu": triangle,
    "diff": diff,
    "topk": topk,
    "one_hot": one_hot,
    "unfold": unfold,
    "histc": histogram,
    "bincount": histogram,
} | dict.fromkeys(["cumsum", "cumprod", "flip", "roll", "sort", "argsort", "logcumsumexp", "cummax", "cummin"], ordered)
SIZES = {"index": resize_index}
