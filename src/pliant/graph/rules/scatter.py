"""Writing at indices: the dimension that is written into keeps its number and order; the others go side by side."""

from __future__ import annotations

from torch.fx import Node

from ..dims import Conflict, Dim
from ..trace import Call, Dims, Tracer, is_tensor

_PLACES = ("order", "its units are written by their place")


def index_add(t: Tracer, call: Call) -> None:
    """`index_add(x, dim, index (E), source)`, `index_copy`, `index_reduce`, `index_fill`: rows of ``x`` are written."""
    x, axis = t.of(call.first), int(call["dim"])
    axis %= len(x)
    t.freeze(x[axis], *_PLACES, call.node)
    source = call.get("source", call.get("value"))
    if is_tensor(source) and t.of(source):
        rows = t.of(source)
        for i, (dim, other) in enumerate(zip(x, rows, strict=True)):
            t.tie(other, t.of(call["index"])[0] if i == axis else dim, call.node)
    t.set(call, x)


def scatter(t: Tracer, call: Call) -> None:
    """`scatter(x, dim, index, src)`: ``index`` and ``src`` go side by side, and with ``x`` except in ``dim``."""
    x, index = t.of(call.first), t.of(call["index"])
    axis = int(call["dim"]) % len(x)
    t.freeze(x[axis], *_PLACES, call.node)
    others: list[tuple[Dims, Dims, int | None]] = [(index, x, axis)]
    if is_tensor(call.get("src")) and t.of(call["src"]):
        others.append((t.of(call["src"]), index, None))
    for dims, beside, apart in others:
        for i, (dim, other) in enumerate(zip(dims, beside, strict=True)):
            if i == apart:
                continue
            if dim.root().size == other.root().size:
                t.tie(dim, other, call.node)
            else:  # only the first of them take part
                t.freeze(dim, *_PLACES, call.node)
                t.freeze(other, *_PLACES, call.node)
    t.set(call, x)


def index_put(t: Tracer, call: Call) -> None:
    """`x[i, :, j] = values`: indexed dimensions are written by place; a mask lies over those that it selects."""
    x, indices = t.of(call.first), list(call["indices"])
    values = t.of(call["values"])
    if any(_mask(value) for value in indices):
        _put_masked(t, call, x, indices, values)
        t.set(call, x)
        return
    used = [i for i, value in enumerate(indices) if isinstance(value, Node)]
    for i in used:
        t.freeze(x[i], *_PLACES, call.node)
    rank = max(len(t.of(indices[i])) for i in used)
    start = used[0] if used == list(range(used[0], used[-1] + 1)) else 0
    places: Dims = [Dim(1) for _ in range(rank)]
    for i in used:
        for k, dim in enumerate(reversed(t.of(indices[i])), 1):
            if places[-k].root().size == 1:
                places[-k] = dim
            elif dim.root().size != 1:
                t.tie(places[-k], dim, call.node)
    rest = [dim for i, dim in enumerate(x) if i not in used]
    written = [*rest[:start], *places, *rest[start:]]
    _beside(t, call, values, written)
    t.set(call, x)


def _mask(index: object) -> bool:
    return isinstance(index, Node) and str(index.meta["val"].dtype) in ("torch.bool", "torch.uint8")


def _put_masked(t: Tracer, call: Call, x: Dims, indices: list[object], values: Dims) -> None:
    first = next(i for i, value in enumerate(indices) if value is not None)
    others = [value for i, value in enumerate(indices) if i != first and value is not None]
    if others or (values and values[0].root().size != 1):
        raise Conflict("a mask and a tensor of as many values as it selects")
    mask = t.of(indices[first])
    for dim, other in zip(mask, x[first:], strict=False):
        t.tie(dim, other, call.node)
    _beside(t, call, values, [*x[:first], Dim(1), *x[first + len(mask) :]])


def _beside(t: Tracer, call: Call, values: Dims, written: Dims) -> None:
    for value, dim in zip(reversed(values), reversed(written), strict=False):
        if value.root().size == dim.root().size:
            t.tie(value, dim, call.node)


_ADDS = ("index_add", "index_copy", "index_reduce", "index_fill")
_SCATTERS = ("scatter", "scatter_add", "scatter_reduce")
_PUTS = ("index_put", "_unsafe_index_put")

RULES = (
    dict.fromkeys((*_ADDS, *(f"{name}_" for name in _ADDS)), index_add)
    | dict.fromkeys((*_SCATTERS, *(f"{name}_" for name in _SCATTERS)), scatter)
    | dict.fromkeys((*_PUTS, "index_put_"), index_put)
)
SIZES = {}  # type: ignore[var-annotated]
