"""Operations that act on each element: the dimensions of their tensor arguments are aligned from the right."""

from __future__ import annotations

from ..dims import Conflict, Dim
from ..trace import Call, Tracer, is_tensor

# torch tags most of these operations as pointwise. The ones below it does not, though they are: composites, casts, and
# those that act along one dimension without regard to the order of its units (softmax).
_UNTAGGED = (
    "softmax", "_softmax", "_safe_softmax", "softmin", "log_softmax", "_log_softmax", "rsub", "true_divide",
    "floor_divide", "where", "alias", "contiguous", "detach", "detach_", "clone", "copy", "copy_", "lift_fresh",
    "lift_fresh_copy", "requires_grad_", "fill", "fill_", "zero", "zero_", "zeros_like", "ones_like", "full_like",
    "empty_like", "rand_like", "randn_like", "bernoulli", "bernoulli_", "masked_fill", "masked_fill_", "hardswish",
    "hardswish_", "relu6", "relu6_", "mish_", "selu", "selu_", "celu", "celu_", "log_sigmoid", "rrelu", "rrelu_",
    "hardsigmoid", "hardsigmoid_", "hardtanh", "hardtanh_", "dropout", "dropout_", "feature_dropout",
    "feature_dropout_", "alpha_dropout", "alpha_dropout_", "feature_alpha_dropout", "native_dropout",
    "multiply", "multiply_", "subtract", "subtract_", "divide", "divide_", "absolute", "negative", "greater",
    "greater_equal", "less", "less_equal", "not_equal", "clip", "clip_", "arctan2", "arctan", "arcsin", "arccos",
    "__and__", "__or__", "__xor__", "real", "imag", "angle", "conj", "_conj", "resolve_conj", "resolve_neg",
)  # fmt: skip

# Only the first argument gives the result its sizes: another one is asked for its type alone.
_FIRST = ("to", "_to_copy", "type_as", "_autocast_to_full_precision", "_autocast_to_reduced_precision")


def pointwise(t: Tracer, call: Call) -> None:
    """Tie every dimension of each tensor argument to the result's, except those that are broadcast."""
    value = call.out
    results = [v for v in (value if isinstance(value, (list, tuple)) else [value]) if v is not None]
    out = [Dim(int(size)) for size in results[0].shape]
    for argument in [*call.node.args, *call.node.kwargs.values()]:
        if not is_tensor(argument):
            continue
        dims = t.of(argument)
        if len(dims) > len(out):
            raise Conflict(f"{call.name} of a tensor of rank {len(dims)} gives one of rank {len(out)}")
        for i in range(1, len(dims) + 1):
            if dims[-i].root().size == out[-i].root().size:
                t.tie(out[-i], dims[-i], call.node)
    t.set(call, [list(out) for _ in results] if isinstance(value, (list, tuple)) else out)


def broadcast(t: Tracer, call: Call) -> None:
    """`broadcast_tensors(tensors)`: all get the same sizes."""
    out = [Dim(int(size)) for size in call.out[0].shape]
    for tensor in call.first:
        dims = t.of(tensor)
        for dim, wide in zip(reversed(dims), reversed(out), strict=False):
            if dim.root().size == wide.root().size:
                t.tie(wide, dim, call.node)
    t.set(call, [list(out) for _ in call.out])


def first(t: Tracer, call: Call) -> None:
    """Casts: the sizes are those of the first argument, whatever the others are."""
    t.set(call, t.of(call.first))


def prelu(t: Tracer, call: Call) -> None:
    """`prelu`: one slope per channel (dimension 1), or one in all."""
    x, weight = t.of(call["self"]), t.of(call["weight"])
    if weight and weight[0].root().size > 1:
        t.tie(x[1 if len(x) > 1 else 0], weight[0], call.node)
    t.set(call, x)


def weight_norm(t: Tracer, call: Call) -> None:
    """`_weight_norm(v, g, dim)`: the direction times one length per unit of ``dim``."""
    v, g = t.of(call["v"]), t.of(call["g"])
    for left, right in zip(v[::-1], g[::-1], strict=False):
        if left.root().size == right.root().size:
            t.tie(left, right, call.node)
    t.set(call, v)


def nothing(t: Tracer, call: Call) -> None:
    """Assertions and other operations without a tensor result."""
    t.dims[call.node] = None


RULES = (
    dict.fromkeys((*_UNTAGGED, "pointwise"), pointwise)
    | dict.fromkeys(_FIRST, first)
    | dict.fromkeys(("prelu", "_prelu_kernel"), prelu)
    | {"_weight_norm": weight_norm, "broadcast_tensors": broadcast}
    | dict.fromkeys(
        (
            "_assert_tensor_metadata",
            "_assert_async",
            "_assert_scalar",
            "sym_size",
            "item",
            "_local_scalar_dense",
        ),
        nothing,
    )
)
SIZES = {}  # type: ignore[var-annotated]
