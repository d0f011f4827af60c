"""Operations that act on each element: the dimensions of their tensor arguments are aligned from the right."""

from __future__ import annotations

from ..dims import Dim
from ..trace import Call, Tracer, is_tensor

# Not tagged as pointwise by torch, but they are: composites, casts, and those that act along one dimension without
# regard to the order of its units (softmax).
NAMES = [
    "add",
    "add_",
    "sub",
    "sub_",
    "mul",
    "mul_",
    "div",
    "div_",
    "rsub",
    "pow",
    "maximum",
    "minimum",
    "where",
    "gelu",
    "relu",
    "relu_",
    "silu",
    "silu_",
    "sigmoid",
    "tanh",
    "exp",
    "log",
    "sqrt",
    "rsqrt",
    "neg",
    "abs",
    "clamp",
    "clamp_",
    "hardswish",
    "hardswish_",
    "hardsigmoid",
    "hardtanh",
    "hardtanh_",
    "leaky_relu",
    "leaky_relu_",
    "elu",
    "elu_",
    "celu",
    "selu",
    "mish",
    "softplus",
    "relu6",
    "relu6_",
    "dropout",
    "dropout_",
    "feature_dropout",
    "alpha_dropout",
    "clone",
    "contiguous",
    "alias",
    "detach",
    "detach_",
    "to",
    "_to_copy",
    "softmax",
    "_softmax",
    "log_softmax",
    "_log_softmax",
    "masked_fill",
    "masked_fill_",
    "erf",
    "cos",
    "sin",
    "eq",
    "ne",
    "lt",
    "gt",
    "le",
    "ge",
    "logical_not",
    "logical_and",
    "logical_or",
    "bitwise_not",
    "bitwise_and",
    "bitwise_or",
    "type_as",
    "square",
    "reciprocal",
    "lift_fresh_copy",
    "lerp",
    "clamp_min",
    "clamp_max",
    "floor",
    "round",
    "fill",
    "fill_",
    "zeros_like",
    "ones_like",
    "full_like",
    "empty_like",
    "rand_like",
    "randn_like",
    "isnan",
    "nan_to_num",
    "__and__",
    "__or__",
    "sign",
    "tanh_",
    "sigmoid_",
    "hardsigmoid_",
    "xlogy",
    "expm1",
    "log1p",
    "float_power",
    "threshold",
    "rrelu",
    "logsigmoid",
    "log_sigmoid",
    "hardshrink",
    "copy",
    "copy_",
    "requires_grad_",
    "zero_",
    "softmin",
    "relu_",
    "mish_",
    "float",
    "half",
    "double",
    "bfloat16",
    "long",
    "int",
    "bool",
    "true_divide",
    "floor_divide",
    "remainder",
    "fmod",
    "addcmul",
    "addcdiv",
    "native_dropout",
    "bernoulli",
    "numpy_T",
    "dropout2d",
    "atan2",
    "logaddexp",
    "masked_fill",
    "logit",
]


def pointwise(t: Tracer, call: Call) -> None:
    """Tie every dimension of each tensor argument to the result's, except those that are broadcast."""
    value = call.out
    results = [v for v in (value if isinstance(value, (list, tuple)) else [value]) if v is not None]
    out = [Dim(int(size)) for size in results[0].shape]
    for argument in [*call.node.args, *call.node.kwargs.values()]:
        if not is_tensor(argument):
            continue
        dims = t.of(argument)
        for i in range(1, len(dims) + 1):
            if dims[-i].root().size == out[-i].root().size:
                t.tie(out[-i], dims[-i], call.node)
    t.set(call, [list(out) for _ in results] if isinstance(value, (list, tuple)) else out)


def prelu(t: Tracer, call: Call) -> None:
    """`prelu`: one slope per channel (dimension 1), or one in all."""
    x, weight = t.of(call["self"]), t.of(call["weight"])
    if weight and weight[0].root().size > 1:
        t.tie(x[1 if len(x) > 1 else 0], weight[0], call.node)
    t.set(call, x)


def nothing(t: Tracer, call: Call) -> None:
    """Assertions and other operations without a tensor result."""
    t.dims[call.node] = None


RULES = dict.fromkeys((*NAMES, "pointwise"), pointwise) | {
    "prelu": prelu,
    "_prelu_kernel": prelu,
    "_assert_tensor_metadata": nothing,
    "_assert_async": nothing,
    "_assert_scalar": nothing,
    "sym_size": nothing,
    "item": nothing,
    "_local_scalar_dense": nothing,
}
SIZES = {}  # type: ignore[var-annotated]
