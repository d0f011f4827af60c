"""Products, distances and similarities that torch gives names of their own: what is summed over is tied."""

from __future__ import annotations

from ..dims import Conflict, Dim
from ..trace import Call, Dims, Tracer


def _side_by_side(t: Tracer, call: Call, a: Dims, b: Dims) -> Dims:
    """Align two tensors from the right, tie them where neither is broadcast, and return the result's terms."""
    out: Dims = []
    for i in range(max(len(a), len(b)), 0, -1):
        both = [dims[-i] for dims in (a, b) if len(dims) >= i]
        wide = max(both, key=lambda dim: dim.root().size)
        for dim in both:
            if dim.root().size == wide.root().size:
                t.tie(wide, dim, call.node)
        out.append(wide)
    return out


def _pair(t: Tracer, call: Call) -> tuple[Dims, Dims]:
    return t.of(call.node.args[0]), t.of(call.node.args[1])


def along(t: Tracer, call: Call) -> None:
    """`cosine_similarity(a, b, dim)`, `pairwise_distance(a, b)`, `vecdot(a, b, dim)`: one dimension goes."""
    out = _side_by_side(t, call, *_pair(t, call))
    dim = -1 if call.get("dim") is None else int(call["dim"])
    out[dim] = Dim(1)
    t.set(call, out if call.get("keepdim") else [d for i, d in enumerate(out) if i != dim % len(out)])


def total(t: Tracer, call: Call) -> None:
    """`dist(a, b)`: a number."""
    _side_by_side(t, call, *_pair(t, call))
    t.set(call, [])


def cdist(t: Tracer, call: Call) -> None:
    """`cdist(a (..., P, M), b (..., R, M))` gives (..., P, R)."""
    a, b = _pair(t, call)
    t.tie(a[-1], b[-1], call.node)
    t.set(call, [*_side_by_side(t, call, a[:-2], b[:-2]), a[-2], b[-2]])


def inner(t: Tracer, call: Call) -> None:
    """`inner(a (..., M), b (..., M))`: all other dimensions of both."""
    a, b = _pair(t, call)
    if not a or not b:
        raise Conflict("an inner product with a number")
    t.tie(a[-1], b[-1], call.node)
    t.set(call, [*a[:-1], *b[:-1]])


def tensordot(t: Tracer, call: Call) -> None:
    """`tensordot(a, b, dims_self, dims_other)`: the named dimensions are summed over in pairs, the others pass on."""
    a, b = _pair(t, call)
    left, right = ([int(i) % len(dims) for i in call[n]] for dims, n in ((a, "dims_self"), (b, "dims_other")))
    for i, j in zip(left, right, strict=True):
        t.tie(a[i], b[j], call.node)
    rest = [d for i, d in enumerate(a) if i not in left], [d for i, d in enumerate(b) if i not in right]
    t.set(call, [*rest[0], *rest[1]])


def add_product(t: Tracer, call: Call) -> None:
    """`addmv(c, a (M, K), b (K))`, `addbmm(c, a (B, M, K), b (B, K, N))`, which sums over B."""
    c, a, b = (t.of(node) for node in call.node.args[:3])
    t.tie(a[-1], b[-2] if len(b) > 1 else b[0], call.node)
    if len(a) == 3:
        t.tie(a[0], b[0], call.node)
    out = [a[-2], *([b[-1]] if len(b) > 1 else [])]
    for dim, term in zip(reversed(c), reversed(out), strict=False):
        if dim.root().size == term.root().size:
            t.tie(dim, term, call.node)
    t.set(call, out)


RULES = (
    dict.fromkeys(("cosine_similarity", "pairwise_distance", "linalg_vecdot"), along)
    | dict.fromkeys(("addmv", "addbmm"), add_product)
    | {"dist": total, "cdist": cdist, "inner": inner, "tensordot": tensordot}
)
SIZES = {}  # type: ignore[var-annotated]
