"""Views, permutations, expansions and freshly made tensors: where sizes are written down in the user's code."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from ..dims import Conflict, Dim, Reason, atoms, flat, product, regroup, split_product
from ..trace import Call, Dims, Tracer, place

Size = Callable[[Dim], Any]


def _matching_groups(before: Dims, after: Sequence[int]) -> list[tuple[list[Dim], list[int]]]:
    """Cut a view into its independent parts: runs of dimensions with equal products, sizes of 1 set apart."""
    groups: list[tuple[list[Dim], list[int]]] = []
    i = j = 0
    while i < len(before) or j < len(after):
        if j < len(after) and after[j] == 1:
            groups.append(([], [1]))
            j += 1
            continue
        if i < len(before) and before[i].root().size == 1:
            i += 1
            continue
        left, right = [before[i]], [after[j]]
        have, want = before[i].root().size, after[j]
        i, j = i + 1, j + 1
        while have != want:
            if have < want:
                left.append(before[i])
                have *= before[i].root().size
                i += 1
            else:
                right.append(after[j])
                want *= after[j]
                j += 1
        groups.append((left, right))
    return groups


def view(t: Tracer, call: Call) -> None:
    """`view`, `reshape`, `flatten`, `unflatten`, `squeeze`, `unsqueeze`: joining and refining products."""
    before, after = t.of(call.first), [int(size) for size in call.out.shape]
    if 0 in after or any(d.root().size == 0 for d in before):
        raise Conflict("a view of an empty tensor")
    out: Dims = []
    for left, right in _matching_groups(before, after):
        if not left:
            out.append(Dim(1))
        elif len(left) == len(right) == 1:
            out.append(left[0])
        else:
            out.extend(_regrouped(t, call, left, right))
    _like_other(t, call, out)
    t.set(call, out)


def _like_other(t: Tracer, call: Call, out: Dims) -> None:
    """`view_as`, `expand_as`: the sizes are read from another tensor when the network runs, so they are tied to its."""
    if "other" in call.args:
        for dim, other in zip(out, t.of(call["other"]), strict=True):
            t.tie(dim, other, call.node)


def _regrouped(t: Tracer, call: Call, left: list[Dim], right: list[int]) -> Dims:
    try:
        if len(left) == 1 and left[0].root().kind == "concat":
            return split_product(left[0], right)
        return regroup([factor for dim in left for factor in flat(dim, "product")], right)
    except Conflict as conflict:
        reason = Reason("structure", f"its structure cannot be followed: {conflict}", place(call.node))
        for dim in left:
            t.freeze(dim, reason.code, reason.text, call.node)
        return [Dim(size, reason) for size in right]


def permute(t: Tracer, call: Call) -> None:
    """`permute(x, dims)`."""
    x = t.of(call.first)
    t.set(call, [x[i] for i in call["dims"]])


def transpose(t: Tracer, call: Call) -> None:
    """`transpose(x, dim0, dim1)`, also `swapaxes`."""
    x = t.of(call.first)
    i, j = call.node.args[1], call.node.args[2]
    x[i], x[j] = x[j], x[i]  # type: ignore[index]
    t.set(call, x)


def reverse(t: Tracer, call: Call) -> None:
    """`x.t()`, `x.T`, `x.mT`."""
    x = t.of(call.first)
    t.set(call, [*x[:-2], *x[-2:][::-1]] if call.name in ("mT", "adjoint") else x[::-1])


def movedim(t: Tracer, call: Call) -> None:
    """`movedim(x, source, destination)`."""
    x = t.of(call.first)
    source, target = call["source"], call["destination"]
    source, target = ([source], [target]) if isinstance(source, int) else (source, target)
    source, target = [i % len(x) for i in source], [i % len(x) for i in target]
    rest = iter([i for i in range(len(x)) if i not in source])
    moved = dict(zip(target, source, strict=True))
    t.set(call, [x[moved[i] if i in moved else next(rest)] for i in range(len(x))])


def expand(t: Tracer, call: Call) -> None:
    """`expand`: a dimension of size 1 becomes a new free one, which what follows ties to something."""
    x, shape = t.of(call.first), call.out.shape
    offset = len(shape) - len(x)
    out = [
        x[i - offset] if i >= offset and x[i - offset].root().size == int(s) else Dim(int(s))
        for i, s in enumerate(shape)
    ]
    _like_other(t, call, out)
    t.set(call, out)


def _counts(t: Tracer, call: Call, counts: Sequence[int], x: Dims) -> Dims:
    """Return terms for numbers of repeats: free as those of an expansion, but kept where what is repeated is.

    Key heads that are repeated for their query heads are many of one unit each; tokens or pixels are no units.
    """
    return [
        t.fixed([count], "repeat", "a number of repeats", call.node)[0]
        if any(atom.reason is not None for atom in atoms(dim) if atom.size > 1)
        else Dim(int(count))
        for count, dim in zip(counts, x, strict=True)
    ]


def repeat(t: Tracer, call: Call) -> None:
    """`repeat(x, repeats)`, `tile`: the count is the outer factor."""
    x, counts = t.of(call.first), list(call.get("repeats", call.get("dims")))
    counts = [1] * (len(x) - len(counts)) + counts
    x = [Dim(1)] * (len(counts) - len(x)) + x
    t.notes[call.node] = _counts(t, call, counts, x)
    t.set(call, [product(pair) for pair in zip(t.notes[call.node], x, strict=True)])


def repeat_interleave(t: Tracer, call: Call) -> None:
    """`repeat_interleave(x, n, dim)`: the count is the inner factor."""
    x, dim, repeats = t.of(call.first), call.get("dim"), call.get("repeats")
    if dim is None or not isinstance(repeats, int):
        raise Conflict("a repeat_interleave without a dimension or with a tensor of counts")
    t.notes[call.node] = _counts(t, call, [repeats], [x[dim]])
    x[dim] = product([x[dim], *t.notes[call.node]])
    t.set(call, x)


def create(t: Tracer, call: Call) -> None:
    """`zeros`, `ones`, `full`, `randn` …: sizes that are free until they meet something."""
    t.set(call, [Dim(int(size)) for size in call.out.shape])


def counted(t: Tracer, call: Call) -> None:
    """`arange`, `linspace`: values that tell the units apart, so order and number must stay."""
    t.set(call, t.fixed(call.out.shape, "order", "its units are counted", call.node))


def meshgrid(t: Tracer, call: Call) -> None:
    """`meshgrid(tensors)` with matrix indexing."""
    dims = [t.of(tensor)[0] for tensor in call.node.args[0]]  # type: ignore[union-attr]
    if call.node.kwargs.get("indexing", "ij") != "ij" and "xy" in map(str, call.node.args):
        dims[0], dims[1] = dims[1], dims[0]
    t.set(call, [list(dims) for _ in dims])


def view_as_real(t: Tracer, call: Call) -> None:
    """`view_as_real(x)`: a last dimension of two parts."""
    t.set(call, [*t.of(call.first), *t.fixed([2], "complex", "the two parts of complex numbers", call.node)])


def view_as_complex(t: Tracer, call: Call) -> None:
    """`view_as_complex(x (..., 2))`."""
    x = t.of(call.first)
    t.freeze(x[-1], "complex", "the two parts of complex numbers", call.node)
    t.set(call, x[:-1])


# ---- size arguments, recomputed for a smaller network -------------------------------------------------------------
def _sizes(t: Tracer, call: Call, size: Size) -> list[Any]:
    return [size(dim) for dim in t.of(call.node)]


def resize_view(t: Tracer, call: Call, size: Size) -> dict[str, Any]:
    """Write every size of a view or an expansion; a view becomes a `reshape`: what is cut may lie apart in memory."""
    if call.name in ("view", "_unsafe_view"):
        if "size" not in call.args:  # `view(dtype)`
            return {}
        return {"target": torch.ops.aten.reshape.default, "args": (call.first, _sizes(t, call, size))}
    return {"shape" if "shape" in call.args else "size": _sizes(t, call, size)}


def resize_squeeze(t: Tracer, call: Call, size: Size) -> dict[str, Any]:
    """Name the dimensions that go: others may come to have a size of 1 in a smaller network."""
    x = t.of(call.first)
    asked = call.get("dim")
    wanted = range(len(x)) if asked is None else [asked] if isinstance(asked, int) else asked
    gone = sorted({i % len(x) for i in wanted if x[i].root().size == 1}) if x else []
    target = torch.ops.aten.squeeze_.dims if call.name == "squeeze_" else torch.ops.aten.squeeze.dims
    return {"target": target, "args": (call.first, gone)}


def resize_unflatten(t: Tracer, call: Call, size: Size) -> dict[str, Any]:
    """Write the sizes that an `unflatten` makes."""
    count, rank = len(call["sizes"]), len(t.of(call.first))
    start = call["dim"] % rank
    return {"sizes": _sizes(t, call, size)[start : start + count]}


def resize_repeat(t: Tracer, call: Call, size: Size) -> dict[str, Any]:
    """Write the counts of a `repeat`, `tile` or `repeat_interleave`."""
    counts = [size(dim) for dim in t.notes[call.node]]
    if call.name == "repeat_interleave":
        known = {} if call.get("output_size") is None else {"output_size": size(t.of(call.node)[call["dim"]])}
        return {"repeats": counts[0], **known}
    name = "repeats" if call.name == "repeat" else "dims"
    return {name: counts[-len(call[name]) :]}  # `tile` may be given fewer than there are dimensions


def resize_arange(t: Tracer, call: Call, size: Size) -> dict[str, Any]:
    """Write the end of an `arange` that counts the batch."""
    (dim,), step = t.of(call.node), call.get("step") or 1
    if dim.root().source is None or call.get("start") or call["end"] != step * dim.root().size:
        return {}
    return {"end": size(dim) * step}


_VIEWS = (
    "view", "reshape", "_unsafe_view", "flatten", "unflatten", "squeeze", "unsqueeze", "squeeze_", "unsqueeze_",
    "view_as", "reshape_as", "ravel",
)  # fmt: skip
_SIZED = (
    "zeros", "ones", "full", "empty", "new_zeros", "new_ones", "new_full", "new_empty", "rand", "randn",
)  # fmt: skip

RULES = (
    dict.fromkeys(_VIEWS, view)
    | dict.fromkeys(("transpose", "swapaxes", "swapdims", "transpose_"), transpose)
    | dict.fromkeys(("t", "numpy_T", "mT", "adjoint", "T"), reverse)
    | dict.fromkeys(("expand", "expand_as", "broadcast_to"), expand)
    | dict.fromkeys((*_SIZED, "scalar_tensor"), create)
    | dict.fromkeys(("arange", "linspace", "logspace", "eye", "tril_indices", "triu_indices", "randperm"), counted)
    | dict.fromkeys(("repeat", "tile"), repeat)
    | {
        "permute": permute,
        "movedim": movedim,
        "moveaxis": movedim,
        "repeat_interleave": repeat_interleave,
        "meshgrid": meshgrid,
        "view_as_real": view_as_real,
        "view_as_complex": view_as_complex,
    }
)
SIZES = (
    dict.fromkeys((*_SIZED, "view", "reshape", "_unsafe_view", "expand", "broadcast_to"), resize_view)
    | dict.fromkeys(("repeat", "tile", "repeat_interleave"), resize_repeat)
    | dict.fromkeys(("squeeze", "squeeze_"), resize_squeeze)
    | {"unflatten": resize_unflatten, "arange": resize_arange}
)
