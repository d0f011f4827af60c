"""The basic modules of the language; any other is made by :func:`basic`."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from torch import nn

from ...checks import WrongShapeError
from ...space.placeholders import Symbolic
from .parts import Kind

_IMAGE = "channels height width"


def basic(factory: Callable[..., Any], *, takes: str = "", name: str | None = None) -> Callable[..., Symbolic]:
    """Return a basic module of the language, whose hyperparameters are the arguments of ``factory``.

    With ``Conv = basic(lambda shape, channels: nn.Conv2d(shape[0], channels, 1))`` one writes ``Conv(channels=16)``, or
    ``Conv(channels=[16, 32])``, or any placeholder such as ``Conv(channels=pliant.oneof([16, 32], hint="sizes"))``.

    Args:
        factory: a class or a function that makes a ``torch.nn.Module``, called anew for every network. Where it has an
            argument ``shape``, it is given the shape of what comes in, without the batch.
        takes: names of the dimensions that come in, without the batch, such as ``"channels height width"``; whatever
            has another number of them is refused before the factory is called.
        name: for choices and errors; the factory's by default.

    Raises:
        WrongShapeError: it cannot be called.
    """
    if not callable(factory) or isinstance(factory, nn.Module):
        raise WrongShapeError(
            f"basic takes a class or a function that makes a module, got {factory!r}: a module would be shared by all "
            "networks"
        )
    own: str = getattr(factory, "__name__", type(factory).__name__)
    kind = Kind(factory, tuple(takes.split()), name or own)

    def write(**values: Any) -> Symbolic:
        return kind.write(values)

    write.__name__, write.__doc__ = kind.__name__, factory.__doc__
    return write


def _affine(shape: tuple[int, ...], out: int, bias: bool = True) -> nn.Module:
    """All inputs to ``out`` features, (out,); more than one dimension is flattened first."""
    linear = nn.Linear(math.prod(shape), out, bias=bias)
    return linear if len(shape) == 1 else nn.Sequential(nn.Flatten(), linear)


def _conv2d(
    shape: tuple[int, ...], channels: int, kernel: int = 3, stride: int = 1, padding: str = "same"
) -> nn.Module:
    """A convolution, (channels, height, width); ``"same"``: height and width are divided by the stride, rounded up."""
    if padding not in ("same", "valid"):
        raise WrongShapeError(f"padding is 'same' or 'valid', got {padding!r}")
    before, after = ((kernel - 1) // 2, kernel // 2) if padding == "same" else (0, 0)
    if before == after:
        return nn.Conv2d(shape[0], channels, kernel, stride, before)
    return nn.Sequential(nn.ZeroPad2d((before, after) * 2), nn.Conv2d(shape[0], channels, kernel, stride))


def _max_pool(kernel: int = 2, stride: int | None = None) -> nn.Module:
    """The largest of each window, by default without overlap.

    Height and width are divided by the stride, rounded up, for odd windows and for windows as long as the stride.
    """
    return nn.MaxPool2d(kernel, stride, _margin(kernel), ceil_mode=kernel % 2 == 0)


def _avg_pool(kernel: int = 2, stride: int | None = None) -> nn.Module:
    """The mean of each window, what lies outside not counted; as for the largest."""
    return nn.AvgPool2d(kernel, stride, _margin(kernel), ceil_mode=kernel % 2 == 0, count_include_pad=False)


def _margin(kernel: int) -> int:
    return kernel // 2 if kernel % 2 else 0


def _batch_norm(shape: tuple[int, ...]) -> nn.Module:
    """Batch normalisation of (features,), or of the first of more dimensions."""
    kinds = {1: nn.BatchNorm1d, 2: nn.BatchNorm1d, 3: nn.BatchNorm2d, 4: nn.BatchNorm3d}
    if len(shape) not in kinds:
        raise WrongShapeError("batch normalisation takes from 1 to 4 dimensions, without the batch")
    return kinds[len(shape)](shape[0])


def _empty() -> nn.Module:
    """Nothing: what comes in goes out."""
    return nn.Identity()


Affine = basic(_affine, name="Affine")
Conv2d = basic(_conv2d, takes=_IMAGE, name="Conv2d")
MaxPool2d = basic(_max_pool, takes=_IMAGE, name="MaxPool2d")
AvgPool2d = basic(_avg_pool, takes=_IMAGE, name="AvgPool2d")
BatchNorm = basic(_batch_norm, name="BatchNorm")
Dropout = basic(nn.Dropout)
Relu = basic(nn.ReLU, name="Relu")
Tanh = basic(nn.Tanh)
Sigmoid = basic(nn.Sigmoid)
Empty = basic(_empty, name="Empty")
