"""Small layers that keep the shape of what they get: what may stand on a branch in the place of nothing.

The set is that of path-level transformation (Cai, Yang, Zhang, Han and Yu, 2018, arXiv 1806.02639): convolutions of the
kernel 1, depthwise-separable ones of 3, 5 and 7, average and greatest of 3 x 3, and nothing at all; plain convolutions
and a linear layer besides. Those with weights begin as the identity (Net2Deeper; Chen, Goodfellow and Shlens, 2015,
arXiv 1511.05641); what is pooled changes at once. There is no normalisation in them, unlike in the paper.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import nn

from ..checks import WrongShapeError, unknown

_CONVOLUTIONS: dict[int, Callable[..., nn.Module]] = {3: nn.Conv1d, 4: nn.Conv2d, 5: nn.Conv3d}
_AVERAGES: dict[int, Callable[..., nn.Module]] = {3: nn.AvgPool1d, 4: nn.AvgPool2d, 5: nn.AvgPool3d}
_GREATEST: dict[int, Callable[..., nn.Module]] = {3: nn.MaxPool1d, 4: nn.MaxPool2d, 5: nn.MaxPool3d}

PRIMITIVES: dict[str, tuple[str, int]] = {
    "identity": ("identity", 0),
    "linear": ("linear", 0),
    **{f"convolution {kernel}": ("convolution", kernel) for kernel in (1, 3, 5, 7)},
    **{f"separable {kernel}": ("separable", kernel) for kernel in (3, 5, 7)},
    **{f"average {kernel}": ("average", kernel) for kernel in (3, 5, 7)},
    **{f"max {kernel}": ("max", kernel) for kernel in (3, 5, 7)},
}
"""Name to kind and kernel."""

KEEPING = frozenset(name for name, (kind, _) in PRIMITIVES.items() if kind not in ("average", "max"))
"""Those that change nothing at first."""


def primitive(
    name: str, shape: Sequence[int], dim: int = 1, *, relu: bool = False, seed: int = 0, noise: float = 0.0
) -> nn.Module:
    """Return the layer ``name`` for tensors of ``shape``, in evaluation mode.

    Args:
        name: one of :data:`PRIMITIVES`.
        shape: of what comes in, the batch first.
        dim: the dimension of features: 1, or -1.
        relu: whether layers with weights end in a ReLU, which changes nothing of what is nowhere negative.
        seed: of the noise.
        noise: on the weights, relative to the standard deviation of each tensor, so that branches learn different
            things.

    Raises:
        UnknownNameError: there is no such layer; offers the nearest.
        WrongShapeError: it does not take tensors of this shape.
    """
    if name not in PRIMITIVES:
        raise unknown("operation", name, PRIMITIVES)
    kind, kernel = PRIMITIVES[name]
    if kind == "identity":
        return nn.Identity().eval()
    last = dim % len(shape) == len(shape) - 1
    if not (last if kind == "linear" else dim == 1 and len(shape) in _CONVOLUTIONS):
        expected = "features in the last dimension" if kind == "linear" else "features in dimension 1, and 1 to 3 more"
        raise WrongShapeError(
            f"the operation {name!r} needs {expected}; it would get the shape {tuple(shape)} with features in "
            f"dimension {dim}: leave it out, or give an operation of your own"
        )
    with torch.random.fork_rng(devices=[]):  # layers draw their first weights, which are not used
        layers = _layers(kind, kernel, shape[dim], len(shape))
    generator = torch.Generator().manual_seed(seed)
    for layer in layers:
        _settle(layer, generator, noise)
    if relu and kind not in ("average", "max"):
        layers.append(nn.ReLU())
    return (layers[0] if len(layers) == 1 else nn.Sequential(*layers)).eval()


def _layers(kind: str, kernel: int, features: int, dims: int) -> list[nn.Module]:
    same = {"padding": kernel // 2}
    if kind == "linear":
        return [nn.Linear(features, features)]
    if kind == "convolution":
        return [_CONVOLUTIONS[dims](features, features, kernel, **same)]
    if kind == "separable":
        convolution = _CONVOLUTIONS[dims]
        return [
            convolution(features, features, kernel, groups=features, bias=False, **same),
            convolution(features, features, 1),
        ]
    if kind == "average":
        return [_AVERAGES[dims](kernel, stride=1, count_include_pad=False, **same)]
    return [_GREATEST[dims](kernel, stride=1, **same)]


def _settle(layer: nn.Module, generator: torch.Generator, noise: float) -> None:
    """Make ``layer`` the identity, up to ``noise``."""
    if isinstance(layer, nn.Linear):
        nn.init.eye_(layer.weight)
    elif isinstance(layer, (nn.Conv1d, nn.Conv2d, nn.Conv3d)):
        nn.init.dirac_(layer.weight, groups=layer.groups)
    else:
        return
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    if noise:
        drawn = torch.randn(layer.weight.shape, generator=generator, dtype=layer.weight.dtype)
        layer.weight.data += noise * layer.weight.data.std(correction=0) * drawn
