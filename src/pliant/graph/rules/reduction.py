"""Sums, means, extremes and norms: the reduced dimensions go, the others pass on."""

from __future__ import annotations

import operator

from ..dims import Dim
from ..trace import Call, Dims, Tracer
from .pointwise import pointwise

NAMES = (
    "mean", "sum", "amax", "amin", "var", "std", "prod", "any", "all", "logsumexp", "linalg_vector_norm", "norm",
    "linalg_norm", "frobenius_norm", "var_mean", "std_mean", "nansum", "nanmean", "count_nonzero", "aminmax",
)  # fmt: skip


def _gone(call: Call, rank: int) -> set[int]:
    dim = call.get("dim")
    dims = list(range(rank)) if dim is None or dim == [] else [dim] if isinstance(dim, int) else list(dim)
    return {i % rank for i in dims} if rank else set()


def _reduced(call: Call, x: Dims) -> list[Dim]:
    gone = _gone(call, len(x))
    return [Dim(1) if i in gone else d for i, d in enumerate(x) if call.get("keepdim") or i not in gone]


def reduce(t: Tracer, call: Call) -> None:
    """`mean`, `sum`, `var`, `amax` …: their result does not depend on the order of the units."""
    out = _reduced(call, t.of(call.first))
    t.set(call, [list(out) for _ in call.out] if isinstance(call.out, (list, tuple)) else out)


def _names_units(call: Call) -> bool:
    """Tell whether places of units come out: `argmax`, or the second result of `max(x, dim)` where it is used."""
    if not isinstance(call.out, (list, tuple)):
        return call.name not in ("max", "min", "median")
    return any(
        user.target is not operator.getitem or (user.args[1] == 1 and len(user.users) > 0) for user in call.node.users
    )


def pick(t: Tracer, call: Call) -> None:
    """`argmax`, `max` …: where the result names units by their place, they must stay."""
    if "other" in call.args:
        pointwise(t, call)
        return
    x = t.of(call.first)
    if _names_units(call):
        for i in _gone(call, len(x)):
            t.freeze(x[i], "order", "its units are named by their place", call.node)
    out = _reduced(call, x)
    t.set(call, [list(out) for _ in call.out] if isinstance(call.out, (list, tuple)) else out)


RULES = dict.fromkeys(NAMES, reduce) | dict.fromkeys(["argmax", "argmin", "max", "min", "median", "mode"], pick)
SIZES = {}  # type: ignore[var-annotated]
