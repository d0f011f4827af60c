"""LLM-QFA: the bits of every linear layer are a choice, and each number of bits has weights and adapters of its own.

The given weights are quantised once to each number of bits and frozen, so what is trained is only a low-rank adapter
for each layer and number of bits: members of different bits share no trained number, and cannot disturb each other. An
adapter adds one value to all weights of a group, as in QA-LoRA (Xu and others, 2023, arXiv 2309.14717), so that merged
into its weights it only shifts the group's zero: a member that leaves the family is still quantised. The paper's claim:
one such training serves every mixture of 2, 3 and 4 bits in LLaMA 2 as well as or better than one training for each.

Weights are rounded to the nearest of evenly spaced values between the least and the greatest of their group, until
:meth:`LlmQfa.calibrate` is given batches: then, as in the paper, by GPTQ on what the layers get on these.

This implementation differs. Each layer's inputs for GPTQ are those of the whole network as it was given, not of one
that is quantised up to there, as members mix bits. Weights are kept, and shipped, as the numbers that their codes stand
for, in the network's own precision: choosing fewer bits shows what a member would be worth, and saves no memory by
itself. The largest option is the layer as it was given, which the paper does not offer; :meth:`LlmQfa.limits` leaves it
out. The paper trains adapters alone: give :meth:`LlmQfa.adapters` to the optimizer, else biases, norms and embeddings,
which all members share, learn too. Members are to be drawn with balanced average bits, by the recipe of the same paper;
its search (a hundred random members, then fifty more without the bits that did badly where they matter) is any search
over the family. Its code was not published; beyond the abstract it is known from accounts by others of its method and
settings (GPTQ and adapters as in QA-LoRA, 2, 3 and 4 bits, AdamW with a learning rate of 2e-5, 16 sequences a step).
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn

from ...checks import NoEffectWarning, WrongShapeError
from ...graph.slicing import Pick, take
from ...graph.trace import Call
from ...space.choice import Choice, Option
from ...technique import Elastic, Paper, Stage
from ._gptq import corrected, grams, grid, snapped

if TYPE_CHECKING:
    from ...family.draft import Draft
    from ...family.family import Family
    from ...graph.analysis import Analysis
    from ...graph.nouns import Site


@dataclass(frozen=True)
class LlmQfa(Elastic):
    """Choose the bits of each linear layer's weight; every number of bits has weights and adapters of its own.

    Attributes:
        bits: the numbers of bits to choose from, ascending; the weight as it was given is offered beside them.
        group: how many inputs of an output share a scale, a zero and the adapter's value.
        rank: of the adapters.
    """

    bits: tuple[int, ...] = (2, 3, 4)
    group: int = 32
    rank: int = 8

    paper: ClassVar[Paper | None] = Paper(
        "Yi, Xu, Chang, Tang, Meng, Zhang, Li",
        2024,
        "One QuantLLM for ALL: Fine-tuning Quantized LLMs Once for Efficient Deployments",
        "2405.20202",
    )
    stage: ClassVar[Stage | None] = Stage.QUANTIZE

    def __post_init__(self) -> None:
        """Check the fields."""
        ascending = all(low < high for low, high in zip(self.bits, self.bits[1:], strict=False))
        if not self.bits or not ascending or not all(1 <= bits <= 8 for bits in self.bits):
            raise WrongShapeError(f"LlmQfa.bits are different numbers from 1 to 8, ascending; got {self.bits!r}")
        if self.group < 1 or self.rank < 1:
            raise WrongShapeError(f"LlmQfa needs group >= 1 and rank >= 1; got {self.group} and {self.rank}")

    def choices(self, analysis: Analysis) -> Sequence[Choice]:
        """Return one choice per linear layer; its largest option, the bits of the given weight, leaves it as it is.

        A weight that another kind of layer uses too, such as an embedding tied to the head, is not offered.
        """
        return tuple(Choice(f"{name}.bits", (*self.bits, _given(site))) for name, site in _layers(analysis).items())

    def extras(self, analysis: Analysis, tensors: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return for each layer and number of bits the frozen weight, and an adapter that adds nothing yet."""
        draw = torch.Generator().manual_seed(0)
        found: dict[str, Tensor] = {}
        for name, site in _layers(analysis).items():
            given: Tensor = tensors[site.weight].detach()
            rows = given.t() if _transposed(site) else given
            groups = math.ceil(rows.shape[1] / self.group)
            rank = min(self.rank, rows.shape[0], groups)
            for bits in self.bits:
                values = self._rounded(site, given, bits)
                down = torch.randn(rank, groups, generator=draw) / math.sqrt(groups)
                found[_weight(name, bits)] = nn.Parameter(values, requires_grad=False)
                found[_down(name, bits)] = down.to(given.device, given.dtype)
                found[_up(name, bits)] = torch.zeros(rows.shape[0], rank, device=given.device, dtype=given.dtype)
        return found

    def prepare(self, family: Family) -> None:
        """Quantise anew, as units may have been sorted."""
        tensors = family.tensors()
        with torch.no_grad():
            for name, site in _layers(family.analysis).items():
                for bits in self.bits:
                    if (kept := family.extra.get(_weight(name, bits))) is not None:
                        kept.copy_(self._rounded(site, tensors[site.weight].detach(), bits))

    def calibrate(self, family: Family, batches: Iterable[Any]) -> None:
        """Quantise anew, by GPTQ, so that layers give on ``batches`` what they gave; before adapters are trained.

        Args:
            family: one with this technique; it is prepared for training, as units are sorted first.
            batches: pairs ``(inputs, targets)``, as for training; some hundred samples will do.

        A layer that gets nothing on these batches stays rounded to the nearest, and a warning names it.
        """
        family.prepare()
        found, left = grams(family, batches), []
        for name, site in _layers(family.analysis).items():
            if _weight(name, self.bits[0]) not in family.extra:
                continue  # placed elsewhere
            given, gram = family.tensors()[site.weight].detach(), found.get(site.weight)
            if gram is None:
                left.append(name)
                continue
            for bits in self.bits:
                rows = given.t() if _transposed(site) else given
                values = corrected(rows, bits, self.group, gram)
                with torch.no_grad():
                    family.extra[_weight(name, bits)].copy_(values.t() if _transposed(site) else values)
        if left:
            warnings.warn(
                f"{len(left)} layers get no inputs on these batches and stay rounded to the nearest: {left[:4]}",
                NoEffectWarning,
                stacklevel=2,
            )
        family.forget()

    def _rounded(self, site: Site, given: Tensor, bits: int) -> Tensor:
        if _transposed(site):
            return rounded(given.t(), bits, self.group).t().contiguous()
        return rounded(given, bits, self.group)

    def apply(self, draft: Draft, options: Mapping[str, Option]) -> None:
        """Let the layers that are quantised compute their weights."""
        slicing = None
        for name, site in _layers(draft.analysis).items():
            option = options.get(f"{name}.bits", _given(site))
            if option == _given(site):
                continue
            slicing = slicing or draft.slicing()
            how = (draft.extra, name, int(option), _transposed(site), slicing.picks(site.weight))  # type: ignore[arg-type]
            draft.map(site.weight, partial(self._adapted, *how))

    def _adapted(
        self,
        extra: Mapping[str, Tensor],
        name: str,
        bits: int,
        transposed: bool,
        picks: tuple[Pick, ...],
        weight: Tensor,
    ) -> Tensor:
        """Return what stays after slicing of a quantised weight and its adapter; ``weight`` itself is not used."""
        values = extra[_weight(name, bits)]
        inputs = values.shape[0 if transposed else 1]
        shift = extra[_up(name, bits)] @ extra[_down(name, bits)]
        shift = shift.repeat_interleave(self.group, 1)[:, :inputs]
        return take(values + (shift.t() if transposed else shift), picks)

    def limits(self, analysis: Analysis) -> list[str]:
        """Return the constraints under which every layer is quantised, as in the paper; give them to the family.

        Args:
            analysis: of the network, or of the part of it where this is placed.
        """
        return [f"{choice.name} <= {self.bits[-1]}" for choice in self.choices(analysis)]

    @staticmethod
    def adapters(family: Family) -> list[nn.Parameter]:
        """Return the adapters of a family, for an optimizer that trains nothing else."""
        return [value for name, value in family.extra.items() if _is_adapter(name)]


def rounded(weight: Tensor, bits: int, group: int) -> Tensor:
    """Return weights rounded to evenly spaced values, from the least to the greatest of each group.

    Args:
        weight: ``(outputs, inputs)``.
        bits: there are ``2**bits`` values, 0 always among them.
        group: so many neighbouring inputs of an output have values of their own; the last group may be smaller.

    Returns:
        ``(outputs, inputs)``: the values, not their codes.
    """
    parts: Iterable[Tensor] = weight.split(group, 1)
    steps = 2**bits - 1
    return torch.cat([snapped(part, steps, grid(part, steps)) for part in parts], 1)


def _layers(analysis: Analysis) -> dict[str, Site]:
    """Return the linear layers by the name of their weights, less ``.weight``, each weight once."""
    kinds: dict[str, set[str]] = {}
    for site in analysis.sites:
        kinds.setdefault(site.weight, set()).add(site.kind)
    linear = {site.weight: site for site in analysis.sites if site.weight and kinds[site.weight] == {"linear"}}
    return {name.removesuffix(".weight"): site for name, site in linear.items() if _value(site).dtype.is_floating_point}


def _argument(site: Site) -> Any:
    return Call(site.node)["mat2" if _transposed(site) else "weight"]


def _value(site: Site) -> Tensor:
    value: Tensor = _argument(site).meta["val"]
    return value


def _given(site: Site) -> int:
    return _value(site).dtype.itemsize * 8


def _transposed(site: Site) -> bool:
    """Return whether the weight is ``(inputs, outputs)``."""
    return Call(site.node).name == "addmm"


def _weight(name: str, bits: int) -> str:
    return f"{name}.bits{bits}.weight"


def _down(name: str, bits: int) -> str:
    return f"{name}.bits{bits}.adapter.down"


def _up(name: str, bits: int) -> str:
    return f"{name}.bits{bits}.adapter.up"


def _is_adapter(name: str) -> bool:
    return name.endswith((".adapter.down", ".adapter.up"))
