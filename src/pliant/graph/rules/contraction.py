"""Linear layers, matrix products and einsum: the contracted dimensions are tied, the others pass on."""

from __future__ import annotations

from ..dims import Conflict, Dim
from ..trace import Call, Dims, Tracer, is_tensor


def linear(t: Tracer, call: Call) -> None:
    """`linear(input (..., I), weight (O, I), bias (O))`."""
    x, weight = t.of(call["input"]), t.of(call["weight"])
    t.tie(x[-1], weight[1], call.node)
    if call["bias"] is not None:
        t.tie(weight[0], t.of(call["bias"])[0], call.node)
    t.set(call, [*x[:-1], weight[0]])


def addmm(t: Tracer, call: Call) -> None:
    """`addmm(bias, a (N, I), b (I, O))`; GPT-2's Conv1D is one."""
    bias, a, b = t.of(call["self"]), t.of(call["mat1"]), t.of(call["mat2"])
    t.tie(a[1], b[0], call.node)
    _broadcast(t, call, bias, [a[0], b[1]])
    t.set(call, [a[0], b[1]])


def _broadcast(t: Tracer, call: Call, dims: Dims, out: Dims) -> None:
    """Tie what is added to a product to the product's dimensions, except where it is broadcast."""
    for i in range(1, len(dims) + 1):
        if dims[-i].root().size == out[-i].root().size:
            t.tie(dims[-i], out[-i], call.node)


def matmul(t: Tracer, call: Call) -> None:
    """`matmul(a (..., M, K), b (..., K, N))`, with the vector cases."""
    a, b = t.of(call.node.args[0]), t.of(call.node.args[1])
    t.tie(a[-1], b[-2] if len(b) > 1 else b[-1], call.node)
    lead_a, lead_b = a[:-2], b[:-2]
    out = [Dim(int(size)) for size in call.out.shape]
    tail = ([a[-2]] if len(a) > 1 else []) + ([b[-1]] if len(b) > 1 else [])
    lead = out[: len(out) - len(tail)]
    for dims in (lead_a, lead_b):
        _broadcast(t, call, dims, lead)
    t.set(call, [*lead, *tail])


def baddbmm(t: Tracer, call: Call) -> None:
    """`baddbmm(c, a (B, M, K), b (B, K, N))`."""
    c, a, b = t.of(call["self"]), t.of(call["batch1"]), t.of(call["batch2"])
    t.tie(a[2], b[1], call.node)
    t.tie(a[0], b[0], call.node)
    out = [a[0], a[1], b[2]]
    _broadcast(t, call, c, out)
    t.set(call, out)


def einsum(t: Tracer, call: Call) -> None:
    """`einsum`: one term per letter; the ellipsis stands for dimensions aligned from the right."""
    equation, tensors = str(call.node.args[0]).replace(" ", ""), call.node.args[1]
    left, arrow, right = equation.partition("->")
    if not arrow:
        right = "".join(sorted(c for c in set(left) - set(",.") if left.count(c) == 1))
        right = ("..." if "..." in left else "") + right
    rank = len(call.out.shape) - len(right.replace("...", ""))
    letters: dict[str, Dim] = {}
    for spec, tensor in zip(left.split(","), tensors, strict=True):  # type: ignore[arg-type]
        dims = t.of(tensor)
        for name, dim in zip(_names(spec, len(dims), rank), dims, strict=True):
            known = letters.setdefault(name, dim)
            if known.root().size == 1:
                letters[name] = dim
            elif dim.root().size != 1:
                t.tie(known, dim, call.node)
    t.set(call, [letters[name] for name in _names(right, len(call.out.shape), rank)])


def _names(spec: str, rank: int, hidden: int) -> list[str]:
    """Name every dimension of an operand: its letters, and numbers, the last of ``hidden``, for its ellipsis."""
    before, dots, after = spec.partition("...")
    count = rank - len(before) - len(after) if dots else 0
    return [*before, *map(str, range(hidden - count, hidden)), *after]


def outer(t: Tracer, call: Call) -> None:
    """`outer(a (M), b (N))`."""
    t.set(call, [t.of(call.node.args[0])[0], t.of(call.node.args[1])[0]])


def bilinear(t: Tracer, call: Call) -> None:
    """`bilinear(a (..., I), b (..., J), weight (O, I, J), bias)`."""
    a, b, weight = t.of(call["input1"]), t.of(call["input2"]), t.of(call["weight"])
    t.tie(a[-1], weight[1], call.node)
    t.tie(b[-1], weight[2], call.node)
    for left, right in zip(a[:-1], b[:-1], strict=True):
        t.tie(left, right, call.node)
    if call["bias"] is not None:
        t.tie(weight[0], t.of(call["bias"])[0], call.node)
    t.set(call, [*a[:-1], weight[0]])


def grouped(t: Tracer, call: Call) -> None:
    """`grouped_mm(x (S, I), weights (E, I, O), offsets (E))`: rows in turn go through the matrices of a bank."""
    x, bank = t.of(call.first), t.of(call.node.args[1])
    if len(x) != 2 or len(bank) != 3:
        raise Conflict("a grouped product of other than rows and a bank of matrices")
    t.tie(x[1], bank[1], call.node)
    t.freeze(bank[0], "experts", "the number of experts, which are told apart by their place", call.node)
    for node in (call.get("offs"), call.get("bias")):
        if is_tensor(node) and t.of(node)[0].root().size == bank[0].root().size:
            t.tie(t.of(node)[0], bank[0], call.node)
    if is_tensor(call.get("bias")):
        t.tie(t.of(call["bias"])[-1], bank[2], call.node)
    t.set(call, [x[0], bank[2]])


RULES = {
    "linear": linear,
    "addmm": addmm,
    "matmul": matmul,
    "mm": matmul,
    "bmm": matmul,
    "mv": matmul,
    "dot": matmul,
    "vdot": matmul,
    "baddbmm": baddbmm,
    "einsum": einsum,
    "outer": outer,
    "ger": outer,
    "bilinear": bilinear,
} | dict.fromkeys(("_grouped_mm", "grouped_mm", "grouped_mm_fallback"), grouped)
SIZES = {}  # type: ignore[var-annotated]
