"""Scaled dot-product attention, grouped-query heads and masks with a head dimension included."""

from __future__ import annotations

from ..dims import split_product
from ..trace import Call, Tracer


def scaled_dot_product_attention(t: Tracer, call: Call) -> None:
    """`sdpa(q (..., H, T, D), k (..., G, S, D), v (..., G, S, V), mask)` gives (..., H, T, V); H is G or a multiple."""
    q, k, v = t.of(call["query"]), t.of(call["key"]), t.of(call["value"])
    t.tie(q[-1], k[-1], call.node)
    t.tie(k[-2], v[-2], call.node)
    for i in range(3, len(q) + 1):
        heads, groups = q[-i].root().size, k[-i].root().size
        if heads == groups:
            t.tie(q[-i], k[-i], call.node)
        elif groups > 1:
            t.tie(split_product(q[-i], [groups, heads // groups])[0], k[-i], call.node)
        t.tie(k[-i], v[-i], call.node)
    if call.get("attn_mask") is not None:
        mask = t.of(call["attn_mask"])
        scores = [*q[:-1], k[-2]]
        for i in range(1, len(mask) + 1):
            if mask[-i].root().size == scores[-i].root().size:
                t.tie(mask[-i], scores[-i], call.node)
    t.set(call, [*q[:-1], v[-1]])


RULES = {"scaled_dot_product_attention": scaled_dot_product_attention}
SIZES = {}  # type: ignore[var-annotated]
