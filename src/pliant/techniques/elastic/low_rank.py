"""Elastic rank: a linear layer computes with two thin factors of its weight, of a rank that is a choice.

All ranks share the layer's weight ``W``. Beside it the family keeps a basis of input directions ``V``, at first the
right singular vectors, the strongest first: the member of rank r projects on the first r of them, so that its weight is
``W Q Q'`` with ``Q`` an orthonormal basis of these columns, held as the factors ``W Q`` and ``Q'``. That is the best
approximation of its rank (Eckart and Young, 1936), and smaller ranks are nested in larger ones. ``W`` and ``V`` both
learn. The largest option is the layer as it was given, bit for bit. The paper's claim: searching over ranks beside
widths and patch sizes finds better vision transformers for the memory of a microcontroller.

This implementation differs. In the paper (as its published code shows) one ratio holds for the whole network, and every
ratio has a supernet of its own, started from an SVD of a trained one, with three factors of a layer (the middle one
square) that are cut like any width; ``per="network"`` gives the one ratio, but over one set of weights. Two factors
here do the same with fewer operations, and ranks that save nothing are not offered, where the paper goes up to 0.95.
Where a width cuts the layer, what stays is factorised: the ratio is one of its own smaller side, ``V`` is cut with the
inputs; a layer that two factors do not make smaller, whole or as cut, stays one. Where members are graphs of
operations, a lower rank is the same function, but no cheaper. Layers whose weight something else uses too (an embedding
tied to the head), or that are not called as ``nn.Linear``, are left whole.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...checks import WrongShapeError
from ...family.computed import Computed, replace_module
from ...graph.slicing import Pick, take
from ...space.choice import Choice, Option
from ...technique import Elastic, Paper, Stage
from ._linear import Layer, linear_layers
from ._roles import roles

if TYPE_CHECKING:
    from ...family.draft import Draft
    from ...family.family import Family
    from ...graph.analysis import Analysis

_PER = ("layer", "role", "network")
_WEAK = 1e-4  # a direction that adds less than this share of the strongest to a basis has no gradient


@dataclass(frozen=True)
class LowRank(Elastic):
    """Choose the rank of each linear layer, as a share of its full rank; 1 is the layer as it is.

    Attributes:
        ratios: the shares to choose from, in (0, 1); those at which two factors save nothing are left out.
        multiple: ranks are rounded to a multiple of this (hardware likes it), and are at least that.
        per: a choice for each ``"layer"``, for all layers of one ``"role"`` (equal names but for the numbers of layers,
            equal sizes), or one for the ``"network"``.
    """

    ratios: tuple[float, ...] = (0.125, 0.25, 0.5)
    multiple: int = 8
    per: str = "layer"

    paper: ClassVar[Paper | None] = Paper(
        "Liang, Wang, Xu, Tang, Zhou, Lu",
        2023,
        "MCUFormer: Deploying Vision Transformers on Microcontrollers with Limited Memory",
        "2310.16898",
    )
    stage: ClassVar[Stage | None] = Stage.FACTORIZE

    def __post_init__(self) -> None:
        """Check the fields."""
        if not self.ratios or any(not 0 < ratio < 1 for ratio in self.ratios):
            raise WrongShapeError(
                f"LowRank.ratios are shares of the full rank between 0 and 1; got {self.ratios!r}. The layer as it is "
                "comes with them, as 1"
            )
        if not isinstance(self.multiple, int) or self.multiple < 1:
            raise WrongShapeError(f"LowRank.multiple is a whole number, 1 or more; got {self.multiple!r}")
        if self.per not in _PER:
            raise WrongShapeError(f"LowRank.per is one of {', '.join(map(repr, _PER))}; got {self.per!r}")

    def choices(self, analysis: Analysis) -> Sequence[Choice]:
        """Return one choice per linear layer (per role, or for the network) that two factors can make smaller."""
        found = []
        for name, layers in self._groups(analysis).items():
            ratios: dict[tuple[int, ...], float] = {}
            for ratio in sorted(set(self.ratios)):
                ranks = tuple(self.rank(ratio, *layer.shape) for layer in layers)
                if any(ranks):
                    ratios.setdefault(ranks, ratio)
            if ratios:
                found.append(Choice(name, (*ratios.values(), 1.0)))
        return tuple(found)

    def rank(self, ratio: float, outputs: int, inputs: int) -> int:
        """Return the rank of a layer's factors at a share of its full rank; 0 where they would save nothing."""
        rank = max(self.multiple, round(ratio * min(outputs, inputs) / self.multiple) * self.multiple)
        return rank if ratio < 1 and rank * (outputs + inputs) < outputs * inputs else 0

    def extras(self, analysis: Analysis, tensors: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return each layer's basis, ``(inputs, largest rank)``: its leading right singular vectors."""
        return {_basis(layer): directions(tensors[layer.weight], rank) for layer, rank in self._bent(analysis)}

    def prepare(self, family: Family) -> None:
        """Find the bases anew, as units may have been sorted."""
        with torch.no_grad():
            for layer, rank in self._bent(family.analysis):
                if (basis := family.extra.get(_basis(layer))) is not None:
                    basis.copy_(directions(family.tensors()[layer.weight], rank))

    def apply(self, draft: Draft, options: Mapping[str, Option]) -> None:
        """Put factors in the place of the layers."""
        slicing, groups = draft.slicing(), self._groups(draft.analysis)
        for name, option in options.items():
            for layer in groups[name]:
                sizes = [slicing.size(dim) for dim in draft.analysis.trace.parameters[layer.weight]]
                ratio = float(option)  # type: ignore[arg-type]
                rank = self.rank(ratio, *sizes)
                if not rank or not self.rank(ratio, *layer.shape):
                    continue
                columns = slicing.picks(layer.weight)[1]
                basis = partial(_leading, draft.extra[_basis(layer)], columns, rank)
                for path in layer.callers if draft.modules else ():
                    draft.then(partial(_factorise, path, basis))
                if not draft.modules:
                    draft.map(layer.weight, partial(_projected, basis))

    def _bent(self, analysis: Analysis) -> list[tuple[Layer, int]]:
        """Return the layers that bend, with their largest ranks."""
        rows = [
            (layer, max(self.rank(ratio, *layer.shape) for ratio in self.ratios))
            for layers in self._groups(analysis).values()
            for layer in layers
        ]
        return [(layer, rank) for layer, rank in rows if rank]

    def _groups(self, analysis: Analysis) -> dict[str, list[Layer]]:
        """Map the name of each choice to its layers."""
        layers = linear_layers(analysis)
        if self.per == "network":
            return {"rank": layers}
        if self.per == "role":
            return {f"{name}.rank": group for name, group in roles(layers, lambda layer: layer.shape).items()}
        return {f"{layer.name}.rank": [layer] for layer in layers}


class Factored(Computed):
    """Stands for a linear layer of a member: two factors, computed from the family's weight and basis at each use.

    Args:
        whole: the layer, with the member's part of the weight.
        basis: gives ``(inputs, rank)``, the directions that inputs are projected on.
    """

    def __init__(self, whole: nn.Linear, basis: Callable[[], Tensor]) -> None:
        super().__init__()
        self.whole, self._basis = whole, basis

    def factors(self) -> tuple[Tensor, Tensor]:
        """Return what is applied first, ``(rank, inputs)``, and then, ``(outputs, rank)``."""
        axes = orthonormal(self._basis())
        return axes.t().contiguous(), self.whole.weight @ axes

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(..., inputs)`` to ``(..., outputs)``."""
        down, up = self.factors()
        return F.linear(F.linear(x, down), up, self.whole.bias)

    def settled(self) -> nn.Module:
        """Return two linear layers, ``down`` and ``up``."""
        learns = self.whole.weight.requires_grad
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        for name, weight in zip(("down", "up"), self.factors(), strict=True):
            layer = nn.Linear(weight.shape[1], weight.shape[0], bias=False, device="meta")  # no random numbers drawn
            layer.weight = nn.Parameter(weight.detach().clone(), requires_grad=learns)
            layers[name] = layer
        layers["up"].bias = self.whole.bias
        return nn.Sequential(layers)


def _factorise(path: str, basis: Callable[[], Tensor], net: nn.Module) -> None:
    layer = dict(net.named_modules()).get(path)
    if isinstance(layer, nn.Linear):  # else its block is left out
        replace_module(net, layer, Factored(layer, basis))


def _projected(basis: Callable[[], Tensor], weight: Tensor) -> Tensor:
    axes = orthonormal(basis())
    return (weight @ axes) @ axes.t()


def _leading(whole: Tensor, rows: Pick, rank: int) -> Tensor:
    return take(whole, (rows, None))[:, :rank]


def directions(weight: Tensor, rank: int) -> Tensor:
    """Return the leading right singular vectors of ``weight`` (outputs, inputs) as columns, ``(inputs, rank)``."""
    if weight.is_meta:
        return weight.detach().new_empty(weight.shape[1], rank)
    axes = torch.linalg.svd(_precise(weight.detach()), full_matrices=False).Vh[:rank]
    return axes.t().contiguous().to(weight.dtype)


def orthonormal(basis: Tensor) -> Tensor:
    """Return an orthonormal basis of the space that the columns of ``basis`` (inputs, rank) span.

    What is made of it by ``Q Q'`` depends on that space alone, and the gradient is the projection's: it has no part
    along the space. A column that depends on those before it, as after a cut, gets none.
    """
    with torch.no_grad():
        axes, corner = torch.linalg.qr(_precise(basis.detach()))
        axes = axes.to(basis.dtype)
    if not (torch.is_grad_enabled() and basis.requires_grad):
        return axes
    with torch.no_grad():
        edge = corner.diagonal().abs()
        weak = (edge <= _WEAK * edge.max()).to(corner) * (edge.max() + 1.0) / _WEAK**2
        one = torch.eye(len(edge), dtype=corner.dtype, device=corner.device)
        inverse = torch.linalg.solve_triangular(corner + torch.diag(weak), one, upper=True).to(basis.dtype)
    moved = (basis - basis.detach()) @ inverse  # zero, but for its gradient
    return axes + (moved - axes @ (axes.t() @ moved))


def _precise(value: Tensor) -> Tensor:
    return value.float() if value.dtype in (torch.float16, torch.bfloat16) else value


def _basis(layer: Layer) -> str:
    return f"{layer.name}.basis"
