"""Which operations can be computed a part at a time, and what each part needs of the inputs.

A tensor is cut into equal parts along one dimension (its tokens, or the rows of an image). Each rule takes the
dimension of an operation's result and returns, by argument, the dimension along which the same parts of that argument
are enough; arguments that it leaves out are needed whole. Operations without a rule, and dimensions that a rule refuses
(``None``), are computed in one go.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from .tape import Operation, Ref, Tape

Dims = Mapping[str, int]
Rule = Callable[["Asked", int], Dims | None]


@dataclass(frozen=True)
class Asked:
    """An operation with its arguments by name; ``parts`` is how many parts are wanted."""

    tape: Tape
    operation: Operation
    parts: int
    out: tuple[int, ...]

    def get(self, name: str) -> Any:
        """Return an argument, its default where it was not given, ``None`` where the overload has no such argument."""
        args, kwargs = self.operation.args
        for at, argument in enumerate(self.operation.target._schema.arguments):
            if argument.name == name:
                if at < len(args):
                    return args[at]
                return kwargs.get(name, argument.default_value if argument.has_default_value() else None)
        return None

    def shape(self, name: str) -> tuple[int, ...]:
        """Return the shape of a tensor argument."""
        return self.tape.values[self.get(name).value].shape


def needs(tape: Tape, operation: Operation, out: int, dim: int, parts: int) -> dict[int, int] | None:
    """Return along which dimensions parts of its arguments are enough for parts of a result.

    Args:
        tape: of the operation.
        operation: the operation.
        out: which value of its result is cut; those of views may be many.
        dim: along which dimension.
        parts: into how many parts.

    Returns:
        Position in ``operation.reads`` to a dimension, for those that are not needed whole; ``None`` where the
        operation cannot be computed in such parts.
    """
    shape = tape.values[out].shape
    rule = RULES.get(operation.name)
    if rule is None and torch.Tag.pointwise in operation.target.tags:
        rule = _pointwise
    if rule is None or operation.writes or not 0 <= dim < len(shape) or shape[dim] % parts:
        return None
    found = rule(Asked(tape, operation, parts, shape), dim)
    if found is None:
        return None
    positions: dict[int, int] = {}
    at = 0
    args, kwargs = operation.args
    names = [argument.name for argument in operation.target._schema.arguments]
    for name, given in (*zip(names, args, strict=False), *kwargs.items()):
        for leaf in pytree.tree_leaves(given):
            if isinstance(leaf, Ref):
                if name in found:
                    if tape.values[leaf.value].shape[found[name]] % parts:
                        return None
                    positions[at] = found[name]
                at += 1
    return positions


def compute(tape: Tape, operation: Operation, tensors: list[Tensor], out: int, dim: int, parts: int) -> Any:
    """Compute one part of an operation's result from parts of its arguments, given in order."""
    given = iter(tensors)
    args, kwargs = pytree.tree_map_only(Ref, lambda ref: next(given), operation.args)
    if operation.name in _SIZED:  # these name the whole sizes
        shape = list(tape.values[out].shape)
        shape[dim] //= parts
        if operation.name == "expand":
            return tensors[0].expand(shape)
        return tensors[0].view(shape) if operation.view else tensors[0].reshape(shape)
    return operation.target(*args, **kwargs)


_SIZED = {"view", "reshape", "_unsafe_view", "flatten", "unflatten", "expand"}


# ---- rules -----------------------------------------------------------------------------------------------------------
def _same(asked: Asked, dim: int) -> Dims | None:
    first = asked.operation.target._schema.arguments[0].name
    return {first: dim} if asked.shape(first) == asked.out else None


def _pointwise(asked: Asked, dim: int) -> Dims | None:
    found = {}
    for argument in asked.operation.target._schema.arguments:
        given = asked.get(argument.name)
        if isinstance(given, Ref):
            shape = asked.shape(argument.name)
            at = dim - (len(asked.out) - len(shape))
            if at >= 0 and shape[at] == asked.out[dim]:
                found[argument.name] = at
        elif isinstance(given, (list, tuple)) and any(isinstance(leaf, Ref) for leaf in given):
            return None
    return found


def _linear(asked: Asked, dim: int) -> Dims | None:
    return {"input": dim} if dim < len(asked.out) - 1 else None


def _product(first: str, second: str, added: str = "") -> Rule:
    """A product of two matrices, or of two stacks of them; the rows of the first one are cut."""

    def rule(asked: Asked, dim: int) -> Dims | None:
        rows = len(asked.shape(first)) - 2
        if rows < 0 or len(asked.shape(second)) < 2 or dim != len(asked.out) - 2:
            return None
        return {first: rows} if not added or len(asked.shape(added)) < 2 else None

    return rule


def _normalised(asked: Asked, dim: int) -> Dims | None:
    return {"input": dim} if dim < len(asked.out) - len(asked.get("normalized_shape")) else None


def _softmax(asked: Asked, dim: int) -> Dims | None:
    return {"self": dim} if dim != asked.get("dim") % len(asked.out) else None


def _batch_norm(asked: Asked, dim: int) -> Dims | None:
    return {"input": dim} if dim > 1 and not asked.get("training") else None


def _attention(asked: Asked, dim: int) -> Dims | None:
    """Each query looks at all keys and values."""
    if asked.get("is_causal") or asked.get("dropout_p") or dim != len(asked.out) - 2:
        return None
    found = {"query": len(asked.shape("query")) - 2}
    if asked.get("attn_mask") is not None and len(mask := asked.shape("attn_mask")) > 1 and mask[-2] > 1:
        found["attn_mask"] = len(mask) - 2
    return found


def _window(first: str, weighted: bool) -> Rule:
    """Convolutions (with a weight) and pooling whose windows lie side by side along the dimension."""

    def rule(asked: Asked, dim: int) -> Dims | None:
        size = asked.operation.target._schema.arguments[1].name
        kernel = asked.shape(size)[2:] if weighted else asked.get(size)
        space = dim - len(asked.out) + (len(kernel) if weighted else 2)
        stride, padding, dilation = asked.get("stride") or kernel, asked.get("padding"), asked.get("dilation") or 1
        if space < 0 or asked.get("ceil_mode") or (isinstance(padding, str) and padding != "valid"):
            return None
        steps, edge = _at(stride, space), 0 if isinstance(padding, str) else _at(padding, space)
        extent = _at(kernel, space)
        fits = steps == extent and edge == 0 and _at(dilation, space) == 1
        return {first: dim} if fits and asked.shape(first)[dim] == asked.out[dim] * extent else None

    return rule


def _at(sizes: Any, place: int) -> int:
    return int(sizes if isinstance(sizes, int) else sizes[place] if len(sizes) > 1 else sizes[0])


def _reduced(asked: Asked, dim: int) -> Dims | None:
    rank = len(asked.shape("self"))
    over = asked.get("dim")
    gone = {at % rank for at in ([over] if isinstance(over, int) else over or range(rank))}
    kept = [at for at in range(rank) if at not in gone or asked.get("keepdim")]
    return {"self": kept[dim]} if kept[dim] not in gone else None


def _permute(asked: Asked, dim: int) -> Dims | None:
    return {"self": asked.get("dims")[dim] % len(asked.out)}


def _transpose(asked: Asked, dim: int) -> Dims | None:
    rank = len(asked.out)
    pair = (0, 1) if asked.operation.name == "t" else (asked.get("dim0") % rank, asked.get("dim1") % rank)
    return {"self": {pair[0]: pair[1], pair[1]: pair[0]}.get(dim, dim)} if rank > 1 else None


def _unsqueeze(asked: Asked, dim: int) -> Dims | None:
    new = asked.get("dim") % len(asked.out)
    return {"self": dim - (dim > new)} if dim != new else None


def _squeeze(asked: Asked, dim: int) -> Dims | None:
    shape, over = asked.shape("self"), asked.get("dim")
    named = {at % len(shape) for at in ([over] if isinstance(over, int) else over or range(len(shape)))}
    kept = [at for at, size in enumerate(shape) if not (size == 1 and at in named)]
    return {"self": kept[dim]}


def _taken(asked: Asked, dim: int) -> Dims | None:
    """One index of a dimension that the result lacks."""
    gone = asked.get("dim") % len(asked.shape("self"))
    return {"self": dim + (dim >= gone)}


def _ranged(asked: Asked, dim: int) -> Dims | None:
    return {"self": dim} if dim != asked.get("dim") % len(asked.out) else None


def _joined(asked: Asked, dim: int) -> Dims | None:
    return {"tensors": dim} if dim != asked.get("dim") % len(asked.out) else None


def _expand(asked: Asked, dim: int) -> Dims | None:
    shape = asked.shape("self")
    at = dim - (len(asked.out) - len(shape))
    return {"self": at} if at >= 0 and shape[at] == asked.out[dim] else None


def _reshape(asked: Asked, dim: int) -> Dims | None:
    """Find the dimension whose parts are the same stretches of all entries in order."""
    shape, before = asked.shape("self"), prod(asked.out[:dim])
    for at, size in enumerate(shape):
        if prod(shape[:at]) == before and size > 1 and size % asked.parts == 0:
            return {"self": at}
    return None


def _embedding(asked: Asked, dim: int) -> Dims | None:
    return {"indices": dim} if dim < len(asked.out) - 1 else None


RULES: Mapping[str, Rule] = {
    **dict.fromkeys(("dropout", "feature_dropout", "contiguous", "clone", "to", "_to_copy", "detach", "alias"), _same),
    "linear": _linear,
    "matmul": _product("self", "other"),
    "mm": _product("self", "mat2"),
    "bmm": _product("self", "mat2"),
    "addmm": _product("mat1", "mat2", "self"),
    **dict.fromkeys(("layer_norm", "rms_norm"), _normalised),
    **dict.fromkeys(("softmax", "_softmax", "log_softmax", "_log_softmax"), _softmax),
    "batch_norm": _batch_norm,
    "scaled_dot_product_attention": _attention,
    **dict.fromkeys(("conv1d", "conv2d", "conv3d"), _window("input", True)),
    **dict.fromkeys(("max_pool2d", "avg_pool2d"), _window("self", False)),
    **dict.fromkeys(("mean", "sum"), _reduced),
    "permute": _permute,
    **dict.fromkeys(("transpose", "swapaxes", "t"), _transpose),
    "unsqueeze": _unsqueeze,
    "squeeze": _squeeze,
    **dict.fromkeys(("select", "unbind"), _taken),
    **dict.fromkeys(("slice", "split", "split_with_sizes", "chunk", "narrow"), _ranged),
    **dict.fromkeys(("cat", "concat"), _joined),
    "expand": _expand,
    **dict.fromkeys(("view", "reshape", "_unsafe_view", "flatten", "unflatten"), _reshape),
    "embedding": _embedding,
}
