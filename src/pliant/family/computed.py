"""Parts of a member that compute their weights from the family's: where one weight map per tensor is not enough.

While a member trains, such a part computes at each use, so that gradients reach the family. A member that leaves the
family gets a plain module in its place, with the values as they are.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import nn


class Computed(nn.Module, ABC):
    """A module that a technique has put into a member (:meth:`~pliant.family.draft.Draft.then`)."""

    @abstractmethod
    def settled(self) -> nn.Module:
        """Return a module of torch's own that computes the same, with parameters of its own."""


def settle_modules(net: nn.Module, member: nn.Module) -> None:
    """Replace every :class:`Computed` part of ``net`` by what it settles into; one used twice stays one.

    Its buffers, such as running statistics, get the values that they have in ``member``, which is built alike.
    """
    made: dict[int, nn.Module] = {}
    with torch.no_grad():
        for path, part in net.named_modules():
            for name, buffer in part.named_buffers() if isinstance(part, Computed) else ():
                buffer.copy_(member.get_submodule(path).get_buffer(name))
        for parent in list(net.modules()):
            for name, child in parent._modules.items():
                if isinstance(child, Computed):
                    if id(child) not in made:
                        made[id(child)] = child.settled().train(child.training)
                    parent._modules[name] = made[id(child)]


def replace_module(net: nn.Module, old: nn.Module, new: nn.Module) -> None:
    """Put ``new``, in the mode of ``old``, wherever ``net`` has its submodule ``old``."""
    new.train(old.training)
    for parent in list(net.modules()):
        for name, child in parent._modules.items():
            if child is old:
                parent._modules[name] = new


def parameter_count(net: nn.Module) -> int:
    """Return the number of parameters that ``net`` will have when it leaves the family."""
    parts = [part for part in net.modules() if isinstance(part, Computed)]
    inside = {id(p) for part in parts for p in part.parameters()}
    with torch.no_grad():
        settled = [p for part in parts for p in part.settled().parameters()]
    return sum(p.numel() for p in settled) + sum(p.numel() for p in net.parameters() if id(p) not in inside)
