"""Masks over the weights of all members: what they hide counts as zero, in training and in what leaves the family.

Linear layers and convolutions get a mask each, all ones at first. The masks belong to the family: every member sees its
slice of them, they are stored with the weights and in checkpoints, and a member that leaves the family has plain zeros.
Which entries are hidden is for a recipe to say. Hidden weights are not lost: the gradient of the masked network is
handed on to them as if they were there, so that they grow again where they are wanted, and the next masks may show
them. The paper's claim for masks by magnitude that change while the hidden weights learn like this: sparse networks as
good as dense ones, in one training.

This implementation differs: it only holds and applies masks. When they are made anew, and how many entries they hide,
is the recipe's (the paper: every few steps, of a share that grows cubically to its end).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn

from ...checks import WrongShapeError
from ...graph.slicing import Pick, take
from ...space.choice import Choice, Option
from ...technique import Elastic, Paper, Stage

if TYPE_CHECKING:
    from ...family.draft import Draft
    from ...graph.analysis import Analysis
    from ...graph.slicing import Slicing
    from ...space.config import Config

_KINDS = ("linear", "conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d")
_PREFIX = "mask/"  # recipes find the masks by it


@dataclass(frozen=True)
class WeightMasks(Elastic):
    """Hold a mask for every weight of a linear layer or convolution, and apply it in all members.

    Masks are the family's extra parameters called ``mask/`` and the weight's name: 1 where a weight is shown, else 0.

    Attributes:
        through: hand gradients on to hidden weights; false lets them rest.
    """

    through: bool = True

    paper: ClassVar[Paper | None] = Paper(
        "Lin, Stich, Barba, Dmitriev, Jaggi", 2020, "Dynamic Model Pruning with Feedback", "2006.07253"
    )
    stage: ClassVar[Stage | None] = Stage.KERNEL
    gives: ClassVar[frozenset[str]] = frozenset({"weight masks"})
    offers: ClassVar[bool] = False
    follows: ClassVar[bool] = True

    def choices(self, analysis: Analysis) -> Sequence[Choice]:
        """Return none: all members are masked alike."""
        return ()

    def apply(self, draft: Draft, options: Mapping[str, Option]) -> None:
        """Do nothing: there are no choices."""

    def extras(self, analysis: Analysis, tensors: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return a frozen mask of ones for each weight.

        A weight that an embedding uses too, as a head tied to it does, has none.
        """
        found = {}
        for name in _weights(analysis):
            weight = tensors[name]
            if isinstance(weight, nn.Parameter) and weight.is_floating_point():
                ones = torch.ones(weight.shape, dtype=weight.dtype, device=weight.device)
                found[f"{_PREFIX}{name}"] = nn.Parameter(ones, requires_grad=False)
        return found

    def reorder(self, added: Mapping[str, Tensor], slicing: Slicing) -> None:
        """Let masks move along with their weights."""
        for name, mask in added.items():
            if name.startswith(_PREFIX):
                mask.copy_(take(mask.detach().clone(), slicing.picks(name.removeprefix(_PREFIX))))

    def weigh(self, draft: Draft, config: Config) -> None:
        """Let the member hide what the masks hide, after whatever else is made of its weights."""
        slicing = draft.slicing()
        for name in _weights(draft.analysis):
            if (mask := draft.extra.get(f"{_PREFIX}{name}")) is not None:
                draft.map(name, partial(self._masked, name, mask, slicing.picks(name)))

    def _masked(self, name: str, whole: Tensor, picks: tuple[Pick, ...], weight: Tensor) -> Tensor:
        mask = take(whole, picks)
        if mask.shape != weight.shape:
            raise WrongShapeError(
                f"the mask of {name} is of shape {tuple(mask.shape)} in this member, and another technique has made "
                f"the weight {tuple(weight.shape)}; place WeightMasks elsewhere with pliant.at(where, WeightMasks())"
            )
        if not self.through:
            return weight * mask
        return weight + (weight * mask - weight).detach()  # exactly the weight or zero, the gradient of the sum


def _weights(analysis: Analysis) -> list[str]:
    """Return the weights that have masks, in the network's order."""
    kinds: dict[str, set[str]] = {}
    for site in analysis.sites:
        kinds.setdefault(site.weight, set()).add(site.kind)
    return [name for name, row in kinds.items() if name and row <= set(_KINDS)]
