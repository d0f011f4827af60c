"""Mixture-of-Supernets: every weight is mixed from several, in proportions that a router finds for each member.

Members that share weights must agree on them, and hardly can. So each layer keeps several weights, its experts, and a
small network, told which member is asked for, says how they are mixed: for the layer as a whole, or for each of its
output units. The mixture is then sliced as ever, and a member that leaves the family takes its mixture along as a plain
weight. The paper's claim: members come closer to how they do when trained alone, on BERT and machine translation, so
that hardly any training is left to do for the one that is chosen.

This implementation differs: the weights of the network that was given stay as they are, and experts are kept as
differences from it, at first zero: mixed in any proportions that sum to one, the result is the same as of whole
experts, and before training every member is exactly what it was. The router is told the share of every axis that stays
and which blocks stay, not an encoding of the choices; and biases and norms are shared, not mixed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from ...checks import WrongShapeError
from ...graph.slicing import Pick, take
from ...space.choice import Choice, Option
from ...technique import Elastic, Paper, Stage

if TYPE_CHECKING:
    from ...family.draft import Draft
    from ...graph.analysis import Analysis
    from ...space.config import Config


@dataclass(frozen=True)
class MixtureOfSupernets(Elastic):
    """Mix each layer's weight from several, in proportions that depend on the member.

    Attributes:
        experts: how many weights each layer keeps; 1 is plain sharing.
        per_unit: mix every output unit in proportions of its own (the paper's neuron-wise mixtures), not whole layers.
        hidden: the width of the router's hidden layer.
    """

    experts: int = 2
    per_unit: bool = False
    hidden: int = 32

    paper: ClassVar[Paper | None] = Paper(
        "Jawahar, Yang, Xiong, Liu, Wang, Sun, Pappu, Sankaran, Khabsa, Lakshmanan, Shrivastava",
        2023,
        "Mixture-of-Supernets: Improving Weight-Sharing Supernet Training with Architecture-Routed Mixture-of-Experts",
        "2306.04845",
    )
    stage: ClassVar[Stage | None] = Stage.SLICE
    offers: ClassVar[bool] = False

    def __post_init__(self) -> None:
        """Check the fields."""
        if self.experts < 1 or self.hidden < 1:
            raise WrongShapeError(
                f"MixtureOfSupernets needs experts >= 1 and hidden >= 1; got {self.experts} and {self.hidden}"
            )

    def choices(self, analysis: Analysis) -> Sequence[Choice]:
        """Return none: every member is mixed."""
        return ()

    def apply(self, draft: Draft, options: Mapping[str, Option]) -> None:
        """Do nothing: there are no choices."""

    def extras(self, analysis: Analysis, tensors: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return the experts' differences, of each layer's shape, and the router's weights."""
        layers = _layers(analysis) if self.experts > 1 else []
        if not layers:
            return {}
        draw = torch.Generator().manual_seed(0)
        inputs = len(analysis.axes) + len(analysis.blocks)
        like = tensors[layers[0]]
        found = {"router.weight": torch.randn(self.hidden, inputs, generator=draw) / math.sqrt(max(1, inputs))}
        found["router.bias"] = torch.zeros(self.hidden)
        for name in layers:
            rows = self.experts * (tensors[name].shape[0] if self.per_unit else 1)
            found[f"{name}.router"] = torch.randn(rows, self.hidden, generator=draw) / math.sqrt(self.hidden)
            for at in range(self.experts):
                found[f"{name}.expert{at}"] = torch.zeros_like(tensors[name]).detach()
        return {name: value.to(like.device, like.dtype) for name, value in found.items()}

    def weigh(self, draft: Draft, config: Config) -> None:
        """Let the member mix its weights."""
        if self.experts == 1:
            return
        encoding, slicing = encoded(draft), draft.slicing()
        for name in _layers(draft.analysis):
            function = partial(self._mixed, draft.extra, name, encoding, slicing.picks(name))
            draft.map(name, function, first=True)

    def _mixed(
        self, extra: Mapping[str, Tensor], name: str, encoding: Tensor, picks: tuple[Pick, ...], weight: Tensor
    ) -> Tensor:
        """Return the mixture of a layer's experts, of which ``weight`` is the common part that stays after slicing."""
        hidden = F.relu(F.linear(encoding.to(weight), extra["router.weight"], extra["router.bias"]))
        scores = F.linear(hidden, extra[f"{name}.router"]).view(-1, self.experts)
        shares = take(F.softmax(scores, -1), (picks[0], None)) if self.per_unit and picks else F.softmax(scores, -1)
        for at in range(self.experts):
            part = take(extra[f"{name}.expert{at}"], picks)
            weight = weight + shares[:, at].view(-1, *[1] * (part.dim() - 1)) * part
        return weight


def encoded(draft: Draft) -> Tensor:
    """Return what the router is told of a member: the share of every axis that stays, and 1 for blocks that do."""
    analysis = draft.analysis
    kept = {name: units if isinstance(units, int) else len(units) for name, units in draft.kept.items()}
    shares = [kept.get(axis.name, axis.size) / axis.size for axis in analysis.axes]
    gone = set(draft.dropped)
    return torch.tensor([*shares, *(float(block.name not in gone) for block in analysis.blocks)])


def _layers(analysis: Analysis) -> list[str]:
    """Return the weights that are mixed: those of linear layers and convolutions, outputs first."""
    kinds = ("linear", "conv1d", "conv2d", "conv3d")
    return list(dict.fromkeys(site.weight for site in analysis.sites if site.kind in kinds and site.weight))
