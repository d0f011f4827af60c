"""Multiply-accumulates of one forward pass, counted operation by operation."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from .inference import Args, Kwargs, batch_size, evaluating, placed
from .measurement import Measurement
from .objective import Objective, counted

if TYPE_CHECKING:
    from ..space.problem import Count


@dataclass(frozen=True, eq=False)
class Macs(Objective):
    """Multiply-accumulates of a forward pass on the example arguments (of the whole batch, not per sample).

    Counted by torch's FLOP counter, divided by two, over products of matrices and vectors, convolutions, attention
    and recurrent cells; elementwise operations, normalisations and table look-ups count nothing. Causal attention
    counts the full square, as the field does.
    """

    example_args: Args
    example_kwargs: Kwargs | None = None
    name = "macs"
    unit = "MACs"

    def measure(self, member: nn.Module) -> Measurement:
        """Measure ``member``; see the class."""
        from torch.utils.flop_counter import FlopCounterMode

        args, kwargs = placed(member, self.example_args, self.example_kwargs)
        counter = FlopCounterMode(display=False, custom_mapping=_uncounted())
        with evaluating(member), _leaves_without_gradient(member), counter:
            member(*args, **kwargs)
        return Measurement(counter.get_total_flops() / 2, self.unit, details={"batch": batch_size(args, kwargs)})

    def count(self, family: Any) -> Count | None:
        """Return the same for members that are not built; ``None`` where that is not certain."""
        return counted(family, "macs", self)


@contextmanager
def _leaves_without_gradient(net: nn.Module) -> Iterator[None]:
    """The counter hooks tensors that want gradients, and fails where a module is handed a part of a parameter."""
    wanting = [p for p in net.parameters() if p.requires_grad and p.is_leaf]
    for parameter in wanting:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in wanting:
            parameter.requires_grad_(True)


def _uncounted() -> dict[Any, Any]:
    """Formulas for the operations with products that torch's counter leaves out (torch 2.10 to 2.15).

    Its own formulas win where it has them, so a newer torch changes nothing.
    """
    from torch.utils.flop_counter import flop_registry

    found: dict[Any, Any] = {}
    for name, formula in _FORMULAS.items():
        packet = getattr(torch.ops.aten, name, None)
        if packet is not None and packet not in flop_registry:
            found[packet] = formula
    return found


def _shape(value: Any) -> Sequence[int]:
    """The counter hands over shapes, or tensors where a formula asks for raw values."""
    return value.shape if isinstance(value, torch.Tensor) else value


def _matrix_vector(matrix: Any, vector: Any, *_: Any, **__: Any) -> int:
    return 2 * math.prod(_shape(matrix))


def _add_matrix_vector(bias: Any, matrix: Any, vector: Any, *_: Any, **__: Any) -> int:
    return 2 * math.prod(_shape(matrix))


def _dot(left: Any, right: Any, *_: Any, **__: Any) -> int:
    return 2 * math.prod(_shape(left))


def _trilinear(
    first: Any, second: Any, third: Any, expand1: Any, expand2: Any, expand3: Any, sumdim: Any, *_: Any, **__: Any
) -> int:
    """Bilinear layers: every point of the joint index space is one product of three, two of which accumulate."""
    shapes = []
    for value, expand in ((first, expand1), (second, expand2), (third, expand3)):
        shape = list(_shape(value))
        for dimension in sorted(expand):
            shape.insert(dimension, 1)
        shapes.append(shape)
    return 2 * math.prod(max(sizes) for sizes in zip(*shapes, strict=True))


def _recurrent(steps: Any, input_weight: Any, hidden_weight: Any, *_: Any, **__: Any) -> int:
    """One layer and direction of the fused LSTM for CPU; ``steps`` is (time, batch, features)."""
    time, batch = _shape(steps)[:2]
    return 2 * time * batch * (math.prod(_shape(input_weight)) + math.prod(_shape(hidden_weight)))


def _grouped(left: Any, right: Any, *_: Any, **__: Any) -> int:
    """Experts in one call: (M, K) or (G, M, K) by (G, K, N) or (K, N); rows or columns are shared out over groups."""
    a, b = _shape(left), _shape(right)
    shared = a[0] if len(a) == 3 and len(b) == 2 else 1
    return 2 * math.prod(a) * b[-1] // shared


def _attention(query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
    """Scaled dot-product attention on (B, H, L, E), (B, H, S, E), (B, H, S, Ev)."""
    *lead, length, width = _shape(query)
    others, value_width = _shape(key)[-2], _shape(value)[-1]
    return 2 * math.prod(lead) * length * others * (width + value_width)


_FORMULAS: dict[str, Callable[..., int]] = {
    "mv": _matrix_vector,
    "addmv": _add_matrix_vector,
    "dot": _dot,
    "vdot": _dot,
    "_trilinear": _trilinear,
    "mkldnn_rnn_layer": _recurrent,
    "_grouped_mm": _grouped,
    "_scaled_dot_product_flash_attention_for_cpu": _attention,
}
