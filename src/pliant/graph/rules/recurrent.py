"""Recurrent layers and cells: their gates are stacked in one weight, gate by gate, each as wide as the hidden state.

So the rows of a weight are ``gates x hidden``: the hidden width bends, in all layers and directions of one operation
alike, since one tensor holds the initial states of all of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..dims import Conflict, Dim, product
from ..trace import Call, Dims, Tracer

_GATES = {"lstm": 4, "gru": 3, "rnn_tanh": 1, "rnn_relu": 1}
_STACKED = ("gates", "the number of gates of a recurrent layer")
_LAYERS = ("layers", "the layers and directions of a recurrent layer")


def _cell(t: Tracer, call: Call, weights: Sequence[Any], gates: int, inner: Dim, state: Dim, hidden: Dim) -> None:
    """Tie the weights and biases of one cell: rows are ``gates x hidden``, columns its input or its state."""
    for weight, columns in zip(weights[:2], (inner, state), strict=True):
        rows = t.of(weight)
        t.tie(rows[1], columns, call.node)
        _rows(t, call, rows[0], gates, hidden)
    for bias in weights[2:]:
        if bias is not None:
            _rows(t, call, t.of(bias)[0], gates, hidden)


def _rows(t: Tracer, call: Call, rows: Dim, gates: int, hidden: Dim) -> None:
    parts = t.factors(rows, [gates, hidden.root().size], call.node)
    t.freeze(parts[0], *_STACKED, call.node)
    t.tie(parts[1], hidden, call.node)


def layer(t: Tracer, call: Call) -> None:
    """`lstm`, `gru`, `rnn_tanh`, `rnn_relu` over `input (B, T, I)`: gives (B, T, D*H) and states (L*D, B, H)."""
    if "batch_first" not in call.args or call.out[0].dim() != 3:
        raise Conflict("a recurrent layer on packed or unbatched sequences")
    x, at = t.of(call["input"]), 0 if call["batch_first"] else 1
    states = [t.of(s) for s in (call["hx"] if isinstance(call["hx"], (list, tuple)) else [call["hx"]])]
    t.freeze(x[at], "batch", "the batch of a recurrent layer", call.node)
    t.freeze(x[1 - at], "order", "the steps of a recurrent layer", call.node)
    for state in states:
        t.freeze(state[0], *_LAYERS, call.node)
        t.tie(state[1], x[at], call.node)
    out, hidden = states[0][2], states[-1][2]  # they differ where the outputs are projected
    wide = product([*t.fixed([2], *_LAYERS, call.node), out]) if call["bidirectional"] else out
    inner, cells = x[2], _by_cell(call, projected=out.root().size != hidden.root().size)
    for i, weights in enumerate(cells):
        if i == (2 if call["bidirectional"] else 1):
            inner = wide
        if out.root().size != hidden.root().size:
            *weights, projection = weights
            rows = t.of(projection)
            t.tie(rows[0], out, call.node)
            t.tie(rows[1], hidden, call.node)
        _cell(t, call, weights, _GATES[call.name], inner, out, hidden)
    if out.root().size == hidden.root().size:
        t.tie(out, hidden, call.node)
    t.set(call, [[*x[:2], wide], *(list(state) for state in states)])


def _by_cell(call: Call, projected: bool) -> list[list[Any]]:
    each = 2 + 2 * bool(call["has_biases"]) + projected
    params = list(call["params"])
    return [params[i : i + each] for i in range(0, len(params), each)]


def cell(t: Tracer, call: Call) -> None:
    """`lstm_cell`, `gru_cell`, `rnn_tanh_cell`, `rnn_relu_cell`: one step on `input (B, I)`, states (B, H)."""
    x = t.of(call["input"])
    states: list[Dims] = [t.of(s) for s in (call["hx"] if isinstance(call["hx"], (list, tuple)) else [call["hx"]])]
    for state in states:
        t.tie(state[0], x[0], call.node)
        t.tie(state[1], states[0][1], call.node)
    weights = [call["w_ih"], call["w_hh"], call["b_ih"], call["b_hh"]]
    hidden = states[0][1]
    _cell(t, call, weights, _GATES[call.name.removesuffix("_cell")], x[1], hidden, hidden)
    t.set(call, [list(state) for state in states] if len(states) > 1 else states[0])


RULES = dict.fromkeys(_GATES, layer) | dict.fromkeys([f"{name}_cell" for name in _GATES], cell)
SIZES = {}  # type: ignore[var-annotated]
