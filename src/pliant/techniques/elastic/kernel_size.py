"""Elastic kernels: a convolution's smaller kernels are the centres of larger ones, through learned transforms.

Each layer has one square matrix per step from a size to the next smaller one, shared by all its channels: the centre of
the larger kernel, as a vector, times the matrix is the smaller kernel. The matrices start as identities and are trained
with the family. The paper's claim: kernels of 3, 5 and 7 share weights so without hurting each other, though the
centre of a large kernel has another task than a small kernel.

Differs from the paper: kernels of any odd sizes and of one to three dimensions (as in EfficientTDNN, Wang, Wei, Wang,
Li and Meng, 2021, arXiv 2103.13581, whose one-dimensional kernels are centres without transforms:
``transform=False``), found in any network. Where a member is a graph of operations, whose paddings are fixed, a smaller
kernel is set in zeros: the same function, but no fewer multiply-accumulates.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...checks import WrongShapeError
from ...graph.trace import Call
from ...space.choice import Choice, Option
from ...technique import Elastic, Paper, Stage
from ._roles import roles

if TYPE_CHECKING:
    from ...family.draft import Draft
    from ...graph.analysis import Analysis
    from ...graph.nouns import Site


@dataclass(frozen=True)
class KernelSize(Elastic):
    """Choose the size of each convolution's kernel.

    Attributes:
        sizes: the odd sizes to choose from; a layer offers those below its own, and its own.
        transform: learn a matrix for each step from a size to the next; else smaller kernels are plain centres.
        uniform: one choice for all layers that play the same role, such as ``layers.*.conv.kernel``.
    """

    sizes: tuple[int, ...] = (3, 5, 7)
    transform: bool = True
    uniform: bool = False

    paper: ClassVar[Paper | None] = Paper(
        "Cai, Gan, Wang, Zhang, Han",
        2020,
        "Once-for-All: Train One Network and Specialize it for Efficient Deployment",
        "1908.09791",
    )
    stage: ClassVar[Stage | None] = Stage.KERNEL
    follows: ClassVar[bool] = True  # all channels share the matrices

    def __post_init__(self) -> None:
        """Check the fields."""
        if not self.sizes or any(size < 1 or size % 2 == 0 for size in self.sizes):
            raise WrongShapeError(f"KernelSize.sizes are odd numbers, such as (3, 5, 7); got {self.sizes}")

    def choices(self, analysis: Analysis) -> Sequence[Choice]:
        """Return one choice per convolution (where ``uniform``, per role) with a kernel larger than the smallest size.

        Only kernels with the same odd extent in every dimension are offered, in convolutions that pad it by half of it:
        their outputs keep their sizes.
        """
        rows = [(name, self.options(_kernel(sites[0]))) for name, sites in self._layers(analysis).items()]
        return tuple(Choice(name, sizes) for name, sizes in rows if len(sizes) > 1)

    def options(self, size: int) -> tuple[int, ...]:
        """Return the sizes that a layer of kernel ``size`` may have, ascending."""
        return tuple(sorted({other for other in self.sizes if other < size} | {size}))

    def extras(self, analysis: Analysis, tensors: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return an identity per layer and step: matrices of shape ``(smaller**n, smaller**n)``, n the dimensions."""
        found = {}
        for sites in self._layers(analysis).values() if self.transform else ():
            for site in sites:
                weight = tensors[site.weight]
                for smaller in self.options(_kernel(site))[:-1]:
                    side = smaller ** (weight.dim() - 2)
                    dtype = weight.dtype if weight.is_floating_point() else None
                    found[_matrix(site, smaller)] = torch.eye(side, dtype=dtype, device=weight.device)
        return found

    def apply(self, draft: Draft, options: Mapping[str, Option]) -> None:
        """Cut the kernels."""
        layers = self._layers(draft.analysis)
        done: set[str] = set()
        for name, option in options.items():
            for site in layers[name]:
                size, full = int(option), _kernel(site)  # type: ignore[arg-type]
                if size == full:
                    continue
                if site.weight not in done:  # a layer that is called twice has one weight
                    done.add(site.weight)
                    self._cut(draft, site, size)
                if draft.modules:
                    draft.then(_Patch(site.name, size))

    def _cut(self, draft: Draft, site: Site, size: int) -> None:
        steps = [smaller for smaller in self.options(_kernel(site))[-2::-1] if smaller >= size]
        matrices = [draft.extra[_matrix(site, step)] if self.transform else None for step in steps]
        whole = None if draft.modules else _kernel(site)

        def cut(weight: Tensor) -> Tensor:
            for step, matrix in zip(steps, matrices, strict=True):
                weight = shrunk(weight, step, matrix)
            return weight if whole is None else F.pad(weight, [(whole - size) // 2] * (2 * (weight.dim() - 2)))

        draft.map(site.weight, cut)

    def _layers(self, analysis: Analysis) -> dict[str, list[Site]]:
        """Map the name of each choice to its layers."""
        sites: dict[str, Site] = {}
        for site in analysis.sites:
            if site.kind in ("conv1d", "conv2d", "conv3d") and _keeps_sizes(site):
                sites.setdefault(site.name, site)
        if self.uniform:
            return {f"{name}.kernel": group for name, group in roles(list(sites.values()), _kernel).items()}
        return {f"{name}.kernel": [site] for name, site in sites.items()}


def shrunk(weight: Tensor, size: int, matrix: Tensor | None = None) -> Tensor:
    """Return the centre of kernels, transformed.

    Args:
        weight: ``(outputs, inputs, *extents)``.
        size: the extent that is kept in each dimension.
        matrix: ``(size**n, size**n)`` for n dimensions; none to keep the centre as it is.

    Returns:
        ``(outputs, inputs, *[size] * n)``.
    """
    for dim in range(2, weight.dim()):
        weight = weight.narrow(dim, (weight.shape[dim] - size) // 2, size)
    if matrix is None:
        return weight
    return F.linear(weight.flatten(2), matrix).view(weight.shape)


class _Patch:
    """Writes a kernel's size, and the padding that goes with it, into the layer of a member."""

    def __init__(self, path: str, size: int) -> None:
        self.path, self.size = path, size

    def __call__(self, net: nn.Module) -> None:
        layer: Any = dict(net.named_modules()).get(self.path)
        if layer is None:  # its block is left out
            return
        layer.kernel_size = (self.size,) * len(layer.kernel_size)
        if not isinstance(layer.padding, str):
            layer.padding = tuple(step * (self.size - 1) // 2 for step in layer.dilation)
            layer._reversed_padding_repeated_twice = [p for p in reversed(layer.padding) for _ in range(2)]


def _kernel(site: Site) -> int:
    return site.shape[2]


def _matrix(site: Site, size: int) -> str:
    return f"{site.name}.kernel.to{size}"


def _keeps_sizes(site: Site) -> bool:
    extents = site.shape[2:]
    if len(set(extents)) != 1 or extents[0] % 2 == 0:
        return False
    call = Call(site.node)
    padding, dilation = call["padding"], call["dilation"]
    if isinstance(padding, str):
        return padding == "same"
    steps = list(dilation) * (len(extents) // len(dilation))
    wide = list(padding) * (len(extents) // len(padding))
    return all(p == step * (extents[0] - 1) // 2 for p, step in zip(wide, steps, strict=True))
