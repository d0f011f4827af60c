"""Scaled dot-product attention, grouped-query heads and masks with a head dimension included."""

from __future__ import annotations

from ..dims import Dim
from ..trace import Call, Dims, Tracer


def scaled_dot_product_attention(t: Tracer, call: Call) -> None:
    """`sdpa(q (..., H, T, D), k (..., G, S, D), v (..., G, S, V), mask)` gives (..., H, T, V); H is G or a multiple."""
    q, k, v = t.of(call["query"]), t.of(call["key"]), t.of(call["value"])
    t.tie(q[-1], k[-1], call.node)
    t.tie(k[-2], v[-2], call.node)
    if call.get("is_causal"):
        for dim in (q[-2], k[-2]):
            t.freeze(dim, "order", "a causal mask tells its units apart by their place", call.node)
    lead: Dims = []
    for i in range(len(call.out.shape), 2, -1):
        lead.append(_lead(t, call, *(x[-i] if len(x) >= i else Dim(1) for x in (q, k, v))))
    scores = [*lead, q[-2], k[-2]]
    if call.get("attn_mask") is not None:
        mask = t.of(call["attn_mask"])
        for i in range(1, len(mask) + 1):
            if mask[-i].root().size == scores[-i].root().size:
                t.tie(mask[-i], scores[-i], call.node)
    t.set(call, [*lead, q[-2], v[-1]])


def _lead(t: Tracer, call: Call, q: Dim, k: Dim, v: Dim) -> Dim:
    """Join a batch or head dimension of query, key and value: equal, broadcast, or several query heads per key."""
    wide = max((q, k, v), key=lambda dim: dim.root().size)
    for dim in (q, k, v):
        size, full = dim.root().size, wide.root().size
        if size == full:
            t.tie(wide, dim, call.node)
        elif size > 1:
            t.tie(t.factors(wide, [size, full // size], call.node)[0], dim, call.node)
    return wide


RULES = {"scaled_dot_product_attention": scaled_dot_product_attention}
SIZES = {}  # type: ignore[var-annotated]
