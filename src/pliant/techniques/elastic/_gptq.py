"""Rounding weights column by column, each time correcting the columns to come for what was lost (GPTQ).

What counts is the layer's output on inputs that it gets: the lost part of a column is made up for by the columns after
it, as far as their inputs go together (Frantar, Ashkboos, Hoefler and Alistarh, 2022, GPTQ: Accurate Post-Training
Quantization for Generative Pre-trained Transformers, arXiv 2210.17323).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from ...family.statistics import call, keeping_modes
from ...graph.realise import graph_network
from ...graph.slicing import Slicing

if TYPE_CHECKING:
    from ...family.family import Family

_COLUMNS = 128  # so many are corrected one by one, those after them together
_DAMP = 0.01  # what is added to the diagonal, as a share of its mean
Grid = tuple[Tensor, Tensor]


def grid(part: Tensor, steps: int) -> Grid:
    """Return the scale and the zero (outputs, 1) of evenly spaced values from the least to the greatest of each row."""
    low, high = part.amin(1, keepdim=True).clamp(max=0), part.amax(1, keepdim=True).clamp(min=0)
    scale = (high - low) / steps
    scale = torch.where(scale > 0, scale, torch.ones_like(scale))
    return scale, (-low / scale).round()


def snapped(part: Tensor, steps: int, spaced: Grid) -> Tensor:
    """Return the nearest values of a grid."""
    scale, zero = spaced
    return (((part / scale).round() + zero).clamp(0, steps) - zero) * scale


def corrected(weight: Tensor, bits: int, group: int, gram: Tensor) -> Tensor:
    """Return rounded weights whose outputs on the inputs of ``gram`` are near those of the weights.

    Args:
        weight: ``(outputs, inputs)``.
        bits: there are ``2**bits`` values, 0 always among them.
        group: so many neighbouring inputs of an output have values of their own, laid out when their turn comes.
        gram: ``(inputs, inputs)``, the sum over inputs of their outer products with themselves.
    """
    left, steps, width = weight.double().clone(), 2**bits - 1, weight.shape[1]
    hessian = gram.double().clone()
    diagonal = hessian.diagonal()
    diagonal.add_((_DAMP * diagonal.mean()).clamp_min(torch.finfo(torch.float32).tiny))
    factor = torch.linalg.cholesky(torch.cholesky_inverse(torch.linalg.cholesky(hessian)), upper=True)
    found, spaced = torch.empty_like(left), grid(left[:, :group], steps)
    for start in range(0, width, _COLUMNS):
        end = min(start + _COLUMNS, width)
        lost = torch.zeros_like(left[:, start:end])
        for at in range(start, end):
            if at % group == 0:
                # Of columns beyond this block the corrections are still to come: bring those of the group up to date.
                ahead = left[:, at : at + group].clone()
                if at + group > end:
                    ahead[:, end - at :] -= lost @ factor[start:end, end : at + group]
                spaced = grid(ahead, steps)
            found[:, at : at + 1] = snapped(left[:, at : at + 1], steps, spaced)
            gap = (left[:, at] - found[:, at]) / factor[at, at]
            left[:, at + 1 : end] -= torch.outer(gap, factor[at, at + 1 : end])
            lost[:, at - start] = gap
        left[:, end:] -= lost @ factor[start:end, end:]
    return found.to(weight.dtype)


class _Inputs(TorchFunctionMode):
    """Collects what linear operations of a graph of operations get, for each weight."""

    def __init__(self, names: Mapping[int, str]) -> None:
        super().__init__()
        self.names = names
        self.grams: dict[str, Tensor] = {}

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        place = {"aten::linear": (0, 1), "aten::addmm": (1, 2)}.get(getattr(func, "name", str)())
        if place is not None and len(args) > place[1] and (name := self.names.get(id(args[place[1]]))):
            rows = args[place[0]].detach().flatten(0, -2).double()
            self.grams[name] = self.grams.get(name, 0.0) + rows.t() @ rows
        return func(*args, **(kwargs or {}))


def grams(family: Family, batches: Iterable[Any]) -> dict[str, Tensor]:
    """Return for the weight of each linear layer ``(inputs, inputs)``: what its inputs' outer products add up to.

    Args:
        family: its largest member is run, as a graph of operations in evaluation mode.
        batches: pairs ``(inputs, targets)``, as for training.
    """
    tensors = family.tensors()
    with keeping_modes(family.model), torch.no_grad():
        net = graph_network(family.model.eval(), Slicing(family.analysis), tensors.__getitem__).eval()
        seen = _Inputs({id(tensor): name for name, tensor in tensors.items()})
        with seen:
            for batch in batches:
                call(net, batch[0])
    return seen.grams
