"""Recurrent layers: their gates are packed in one weight that no operation shows from inside, so they are kept."""

from __future__ import annotations

from ..dims import Conflict
from ..trace import Call, Tracer


def recurrent(t: Tracer, call: Call) -> None:
    """`lstm`, `gru`, `rnn_tanh`, `rnn_relu`: only the batch passes through; everything else keeps its size."""
    if "batch_first" not in call.args or call.out[0].dim() != 3:
        raise Conflict("a recurrent layer on packed or unbatched sequences")
    why = ("recurrent", f"a recurrent layer ({call.name}) packs its gates in one weight, which is kept whole")
    x, at = t.of(call["input"]), 0 if call["batch_first"] else 1
    states = call["hx"] if isinstance(call["hx"], (list, tuple)) else [call["hx"]]
    for node in (call["input"], *states, *call["params"]):
        for dim in t.of(node):
            if dim.root() is not x[at].root():
                t.freeze(dim, *why, call.node)
    for state in states:
        t.tie(t.of(state)[1], x[at], call.node)
    outs = [t.fixed(value.shape, *why, call.node) for value in call.out]
    outs[0][:2] = x[:2]
    for state_out in outs[1:]:
        state_out[1] = x[at]
    t.freeze(x[at], "batch", "the batch of a recurrent layer", call.node)
    t.set(call, outs)


RULES = dict.fromkeys(("lstm", "gru", "rnn_tanh", "rnn_relu"), recurrent)
SIZES = {}  # type: ignore[var-annotated]
