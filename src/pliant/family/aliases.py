"""Members alias, they don't copy: how a member's tensors lie over the family's storage and gradients.

Where what stays of a tensor is a range in every dimension, the member's parameter is a view of the family's and its
gradient a view of the family's gradient: a backward pass through the member lands in the family without a copy. Where
it is not (fused projections, concatenations), the member gathers a copy before it runs and its gradient is scattered
back as soon as it has been accumulated. Either way the caller sees ordinary parameters and calls ``backward``.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import cache

import numpy as np
import torch
from torch import Tensor, nn

from ..graph.slicing import Pick, Slicing, take

Setter = Callable[[Tensor], None]


@cache
def _accept_strided_gradients() -> None:
    """Spend torch's once-per-process advice about strided gradients on a toy: ours are strided on purpose."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        toy = nn.Parameter(torch.zeros(2, 4)[:, :2])
        toy.grad = torch.zeros(2, 4)[:, :2]
        with torch.enable_grad():
            toy.sum().backward()


class GradientStore:
    """One gradient buffer per family parameter, kept over ``zero_grad(set_to_none=True)``."""

    def __init__(self) -> None:
        _accept_strided_gradients()
        self._buffers: dict[int, Tensor] = {}

    def of(self, parameter: nn.Parameter) -> Tensor:
        """Return the parameter's gradient, making a zeroed one where it has none."""
        if parameter.grad is None:
            buffer = self._buffers.get(id(parameter))
            if buffer is None or buffer.shape != parameter.shape or buffer.device != parameter.device:
                buffer = torch.empty_like(parameter, memory_format=torch.preserve_format)
                self._buffers[id(parameter)] = buffer
            parameter.grad = buffer.detach().zero_()
        return parameter.grad


class ViewAlias:
    """A member's parameter that is a view of the family's."""

    __slots__ = ("_grad", "_picks", "_pointer", "full", "own")

    def __init__(self, full: nn.Parameter, picks: Sequence[Pick]) -> None:
        self.full, self._picks = full, picks
        self.own = nn.Parameter(take(full.detach(), picks), full.requires_grad)
        self._pointer = full.data_ptr()
        self._grad: Tensor | None = None

    def link(self, store: GradientStore, with_gradient: bool) -> None:
        """Point the view at the family's storage and gradient as they are now."""
        full = self.full
        if full.data_ptr() != self._pointer:  # the family was moved or its data replaced
            self.own.data = take(full.detach(), self._picks)
            self._pointer = full.data_ptr()
            self._grad = None
        if with_gradient and full.requires_grad and (self._grad is not full.grad or full.grad is None):
            gradient = store.of(full)
            self.own.grad = take(gradient, self._picks)
            self._grad = full.grad


class GatherAlias:
    """A member's parameter that is a gathered copy; its gradient is scattered to the family's after each backward."""

    __slots__ = ("_picks", "_put", "_version", "full", "own", "shape")

    def __init__(self, full: nn.Parameter, picks: Sequence[Pick], put: Setter) -> None:
        self.full, self._picks, self._put = full, picks, put
        self.shape = tuple(len(_indices(p, s)) for p, s in zip(picks, full.shape, strict=True))
        self._version = -1
        self.own = nn.Parameter(torch.empty(self.shape, dtype=full.dtype, device="meta"), full.requires_grad)

    def link(self, store: GradientStore, with_gradient: bool) -> None:
        """Gather anew where the family's parameter has changed since the last time."""
        full = self.full
        version = full._version
        if version == self._version and not self.own.is_meta and self.own.device == full.device:
            return
        # A new parameter each time: a backward pass that is still due keeps the old one and its values.
        self.own = nn.Parameter(take(full.detach(), self._picks), full.requires_grad)
        if full.requires_grad:
            self.own.register_post_accumulate_grad_hook(lambda own: _scatter(own, full, self._picks, store))
        self._version = version
        self._put(self.own)

    def release(self) -> None:
        """Give the copy's memory back; the next :meth:`link` gathers again."""
        if not self.own.is_meta:
            self.own = nn.Parameter(
                torch.empty(self.shape, dtype=self.full.dtype, device="meta"), self.full.requires_grad
            )
            self._put(self.own)


def _scatter(own: Tensor, full: nn.Parameter, picks: Sequence[Pick], store: GradientStore) -> None:
    if own.grad is None:
        return
    target = take(store.of(full), [pick if isinstance(pick, slice) else None for pick in picks])
    gathered = [(dim, pick) for dim, pick in enumerate(picks) if isinstance(pick, np.ndarray)]
    if len(gathered) == 1:
        dim, pick = gathered[0]
        target.index_add_(dim, torch.from_numpy(pick).to(target.device), own.grad)
    else:
        grid = torch.meshgrid(
            *(
                torch.from_numpy(pick if isinstance(pick, np.ndarray) else np.arange(size))
                for pick, size in zip(picks, target.shape, strict=True)
            ),
            indexing="ij",
        )
        target.index_put_(tuple(axis.to(target.device) for axis in grid), own.grad, accumulate=True)
    own.grad = None


def _indices(pick: Pick, size: int) -> np.ndarray:
    if pick is None:
        return np.arange(size)
    return np.arange(pick.start, pick.stop) if isinstance(pick, slice) else pick


class AliasSet:
    """All aliases of one member, and the buffers that it shares, gathers or owns.

    Args:
        tensors: the family's tensors by canonical name.
        slicing: what the member keeps.
        store: the family's gradient buffers.
        own_buffers: names of the buffers that each member has for itself (running statistics).
    """

    def __init__(
        self, tensors: Mapping[str, Tensor], slicing: Slicing, store: GradientStore, own_buffers: frozenset[str]
    ) -> None:
        self._tensors, self._slicing, self._store, self._own_buffers = tensors, slicing, store, own_buffers
        self.views: list[ViewAlias] = []
        self.gathers: dict[str, GatherAlias] = {}
        self._setters: dict[str, list[Setter]] = {}

    def supply(self, name: str) -> Tensor:
        """Return the member's tensor for a canonical name."""
        full, picks = self._tensors[name], self._slicing.picks(name)
        if isinstance(full, nn.Parameter):
            if any(isinstance(pick, np.ndarray) for pick in picks):
                gather = GatherAlias(full, picks, lambda tensor, name=name: self._place(name, tensor))  # type: ignore[misc]
                self.gathers[name] = gather
                return gather.own
            view = ViewAlias(full, picks)
            self.views.append(view)
            return view.own
        if name in self._own_buffers:
            return take(full, picks).clone()
        return take(full, picks) if any(pick is not None for pick in picks) else full

    def attach(self, net: nn.Module, places: Mapping[str, Sequence[str]]) -> None:
        """Learn where in ``net`` the gathered parameters are, so that they can be replaced there.

        Args:
            net: the member.
            places: canonical name to every name that the tensor has in ``net``.
        """
        modules = dict(net.named_modules())
        for name in self.gathers:
            for place in places.get(name, (name,)):
                path, _, last = place.rpartition(".")
                if path in modules and last in modules[path]._parameters:
                    store = modules[path]._parameters
                    self._setters.setdefault(name, []).append(
                        lambda tensor, store=store, last=last: store.__setitem__(last, tensor)  # type: ignore[misc]
                    )

    def _place(self, name: str, tensor: Tensor) -> None:
        for setter in self._setters.get(name, ()):
            setter(tensor)

    def link(self) -> None:
        """Bring every alias up to date; called before each forward of the member."""
        with_gradient = torch.is_grad_enabled()
        for view in self.views:
            view.link(self._store, with_gradient)
        for gather in self.gathers.values():
            gather.link(self._store, with_gradient)

    def release(self) -> None:
        """Free the gathered copies."""
        for gather in self.gathers.values():
            gather.release()
