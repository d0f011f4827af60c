"""Extraction: a member as a network of its own, with the very tensors that were trained."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from ..checks import VerificationError
from ..graph.configuration import settle_configuration
from ..graph.realise import difference, outputs
from ..graph.slicing import take
from ..space.config import Config
from .computed import settle_modules
from .maps import settle

if TYPE_CHECKING:
    from .family import Family


def extract(family: Family, checked: Config) -> nn.Module:
    """Return the member as an independent network; see :meth:`Family.extract`.

    Raises:
        VerificationError: the copy does not compute exactly what the member computes on the example.
    """
    draft = family.draft(checked)
    member = family.evaluated(checked)
    aliases, kept = family.analysis.capture.aliases, family.statistics
    statistics = {aliases.get(n, n): b for n, b in member.named_buffers() if aliases.get(n, n) in kept}
    slicing = draft.slicing()
    tensors = family.tensors()

    def supply(name: str) -> Tensor:
        source = tensors[name]
        cut = statistics[name] if name in statistics else take(source.detach(), slicing.picks(name))
        copy = cut.detach().clone(memory_format=torch.contiguous_format)
        return nn.Parameter(copy, source.requires_grad) if isinstance(source, nn.Parameter) else copy

    net = family.realise(slicing, supply).eval()
    settle(net, draft.maps, family.places)
    for edit in draft.edits:
        edit(net)
    settle_modules(net, member)
    if family.form == "module" and not draft.changes:
        settle_configuration(net, family.model, slicing)
    if any(tensor.is_meta for tensor in tensors.values()):
        return net  # without weights there is nothing to compare
    args, kwargs = family.example()
    gap = difference(outputs(net, args, kwargs), outputs(member, args, kwargs))
    if gap > 1e-6:
        raise VerificationError(
            f"the extracted network differs from the member by {gap:.1e} on the example (at most 1e-6 expected); "
            + _why(net, None if draft.changes else member)
        )
    return net


def _why(net: nn.Module, member: nn.Module | None) -> str:
    """Say where a member of the same layers is not what its family made it, or ask what else it may be."""
    layers, tensors = dict(net.named_modules()), dict(net.named_parameters(remove_duplicate=False))
    for path, layer in member.named_modules() if member else ():
        if type(layer) is not type(layers.get(path)):
            return f"the member's {path} was replaced: change family.model and make a family of it"
    for name, parameter in member.named_parameters(remove_duplicate=False) if member else ():
        if name not in tensors or not torch.equal(tensors[name], parameter):
            return f"the member's {name} is not the family's any more: write into the family's weights instead"
    return "does its forward draw random numbers, or keep state?"
