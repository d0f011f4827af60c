"""Sums, means, extremes and norms: the reduced dimensions go, the others pass on."""

from __future__ import annotations

from ..dims import Dim
from ..trace import Call, Dims, Tracer


def _reduced(call: Call, x: Dims) -> list[Dim]:
    dim = call.get("dim")
    dims = list(range(len(x))) if dim is None else [dim] if isinstance(dim, int) else list(dim)
    gone = {i % len(x) for i in dims} or set(range(len(x))) if x else set()
    return [Dim(1) if i in gone else d for i, d in enumerate(x) if call.get("keepdim") or i not in gone]


def reduce(t: Tracer, call: Call) -> None:
    """`mean`, `sum`, `var`, `amax` …: their result does not depend on the order of the units."""
    out = _reduced(call, t.of(call.first))
    t.set(call, [list(out) for _ in call.out] if isinstance(call.out, (list, tuple)) else out)


def pick(t: Tracer, call: Call) -> None:
    """`argmax`, `max.dim` …: the result names units by their place, so they must stay."""
    x = t.of(call.first)
    dim = call.get("dim")
    for i, d in enumerate(x):
        if (dim is None and isinstance(call.out, (list, tuple))) or dim is None or i == dim % len(x):
            t.freeze(d, "order", "its units are named by their place", call.node)
    out = _reduced(call, x)
    t.set(call, [list(out) for _ in call.out] if isinstance(call.out, (list, tuple)) else out)


RULES = dict.fromkeys(
    [
        "mean",
        "sum",
        "amax",
        "amin",
        "var",
        "std",
        "prod",
        "any",
        "all",
        "logsumexp",
        "linalg_vector_norm",
        "norm",
        "var_mean",
        "std_mean",
        "nansum",
        "nanmean",
        "count_nonzero",
        "aminmax",
    ],
    reduce,
) | dict.fromkeys(["argmax", "argmin", "max", "min", "median", "mode"], pick)
SIZES = {}  # type: ignore[var-annotated]
