"""Members alias, they don't copy: how a member's tensors lie over the family's storage and gradients.

Where what stays of a tensor is a range in every dimension, the member's parameter is a view of the family's and its
gradient a view of the family's gradient: a backward pass through the member lands in the family without a copy. Where
it is not (fused projections, concatenations), the member gathers a copy while it runs, see
:mod:`~pliant.family.gathered`. Either way the caller sees ordinary parameters and calls ``backward``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from operator import attrgetter, is_
from threading import get_ident
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from ..checks import PliantError
from ..graph.clone import tree
from ..graph.slicing import Slicing
from .copies import Copies
from .cuts import Cuts
from .gathered import GatherAlias
from .gradients import GradientStore

_GRADIENT, _LEARNS = attrgetter("grad"), attrgetter("requires_grad")


class ViewAlias:
    """A member's parameter that is a view of the family's."""

    __slots__ = ("_counts", "_cut", "_pointer", "buffer", "buffer_pointer", "full", "own")

    def __init__(self, full: nn.Parameter, cut: Callable[[Tensor], Tensor], store: GradientStore) -> None:
        self.full, self._cut = full, cut
        self.own = nn.Parameter(cut(full.detach()), full.requires_grad)
        self._counts = False
        self._pointer = full.data_ptr()
        self.buffer: Tensor | None = None
        self.buffer_pointer = 0
        self.learn(store)

    def learn(self, store: GradientStore) -> None:
        """Learn where the family's parameter learns: layers may be frozen, and thawed, at any time."""
        full, own = self.full, self.own
        if own.requires_grad != full.requires_grad:
            own.requires_grad_(full.requires_grad)
            own.grad = self.buffer = None
        if full.requires_grad and not self._counts and store.counts(full):
            own.register_post_accumulate_grad_hook(store.buffer(full).accumulated)
            self._counts = True

    @property
    def apart(self) -> bool:
        """Whether somebody has moved the view to another type or device: it no longer is one of the family's."""
        moved = self.own.dtype != self.full.dtype or self.own.device != self.full.device
        return moved and self.full.data_ptr() == self._pointer  # else it was the family, and the view follows

    def follow(self) -> None:
        """Point the view at the family's storage as it is now."""
        full, own = self.full, self.own
        if full.data_ptr() != self._pointer:  # the family was moved or its data replaced
            own.grad = self.buffer = None
            own.data = self._cut(full.detach())
            self._pointer = full.data_ptr()

    def link(self, store: GradientStore) -> bool:
        """Point the view's gradient at the family's buffer; returns whether the member's own had been cleared."""
        buffer, own = store.of(self.full), self.own
        view = self._cut(buffer)
        cleared = own.grad is None and self.buffer is not None
        if cleared:
            view.zero_()
        own.grad, self.buffer, self.buffer_pointer = view, buffer, buffer.data_ptr()
        return cleared


class _Linked:
    """Remembers how gradients were linked, to tell quickly whether they still are: it is asked thrice in each step."""

    def __init__(self, views: Sequence[ViewAlias]) -> None:
        self._fulls, self._owns = [view.full for view in views], [view.own for view in views]
        self._buffers, self._parts = list(map(_GRADIENT, self._fulls)), list(map(_GRADIENT, self._owns))
        self._pointers = list(map(Tensor.data_ptr, self._buffers))

    def still(self, moved: bool = True) -> bool:
        """Return whether every gradient is the tensor that it was, and, if it can have ``moved``, lies where it lay."""
        return (
            bool(self._fulls)
            and all(map(is_, map(_GRADIENT, self._fulls), self._buffers))
            and all(map(is_, map(_GRADIENT, self._owns), self._parts))
            and (not moved or list(map(Tensor.data_ptr, self._buffers)) == self._pointers)
        )


class AliasSet:
    """All aliases of one member, and the buffers that it shares, gathers or owns.

    Args:
        tensors: the family's tensors by canonical name.
        slicing: what the member keeps.
        store: the family's gradient buffers.
        own_buffers: names of the buffers that each member has for itself (running statistics).
        cuts: what was worked out for earlier members.
    """

    def __init__(
        self,
        tensors: Mapping[str, Tensor],
        slicing: Slicing,
        store: GradientStore,
        own_buffers: frozenset[str],
        cuts: Cuts,
    ) -> None:
        self._tensors, self._slicing, self._store, self._own_buffers = tensors, slicing, store, own_buffers
        self._cuts = cuts
        self.views: list[ViewAlias] = []
        self._leaves: list[ViewAlias] = []  # of gathered copies; among the views from when the member is whole
        self._fulls: list[nn.Parameter] = []  # of the views
        self.gathers: dict[str, GatherAlias] = {}
        self._readers: set[int] = set()  # threads, not their number: an interrupted forward never says that it ended
        self._all: list[nn.Parameter] = []
        self._pointers: list[int] = []
        self._learning: list[bool] = []
        self._linked = _Linked([])

    def supply(self, name: str) -> Tensor:
        """Return the member's tensor for a canonical name."""
        full = self._tensors[name]
        cut = self._cuts.of(name, self._slicing, full.shape)
        if isinstance(full, nn.Parameter):
            if cut.index is not None:
                gather = self.gathers[name] = GatherAlias(full, cut.index, self._store, self._readers)
                if cut.index.regular and type(full.data) is Tensor:
                    leaf = ViewAlias(full, cut.index.strided, self._store)
                    gather.leaf = leaf.own
                    self._leaves.append(leaf)
                return gather.own
            view = ViewAlias(full, cut.view, self._store)
            self.views.append(view)
            return view.own
        if name in self._own_buffers:
            return cut.view(full).clone() if cut.index is None else cut.index.take(full)
        return full if cut.whole else cut.take(full)

    def attach(self, net: nn.Module, places: Mapping[str, Sequence[str]]) -> None:
        """Learn where in ``net`` the gathered parameters are, and stand in for them there.

        Args:
            net: the member.
            places: canonical name to every name that the tensor has in ``net``.
        """
        modules = dict(tree(net))
        for name, gather in self.gathers.items():
            for place in places.get(name, (name,)):
                path, _, last = place.rpartition(".")
                if path in modules and last in modules[path]._parameters:
                    gather.stand_in(modules[path], last)
        # What is in no module went with a block that is left out: to bring it up to date would take time for nothing.
        self.gathers = {name: gather for name, gather in self.gathers.items() if gather.at_home}
        gone = {
            id(self._tensors[name])
            for name in self._tensors
            if not any(place.rpartition(".")[0] in modules for place in places.get(name, (name,)))
        }
        self.views = [view for view in (*self.views, *self._leaves) if id(view.full) not in gone]
        self._fulls = [view.full for view in self.views]
        # Beside those of the views, the others: the gradient of all that this member lacks is zero.
        self._all = list({id(full): full for full in (*self._fulls, *self._parameters())}.values())
        self._pointers, self._learning = list(map(Tensor.data_ptr, self._fulls)), list(map(_LEARNS, self._fulls))

    def _parameters(self) -> list[nn.Parameter]:
        return [tensor for tensor in self._tensors.values() if isinstance(tensor, nn.Parameter)]

    def link(self, running: bool = False, copies: Copies | None = None) -> None:
        """Bring every view up to date, and its gradient before a forward that is about to begin (``running``).

        A forward gathers anew: a change through ``.data`` leaves no trace in a parameter's version. Where ``copies``
        are given, what is gathered is shared through them, and forwards trust it.

        Raises:
            PliantError: the member was moved to another type or device by itself.
        """
        pointers = list(map(Tensor.data_ptr, self._fulls))
        if pointers != self._pointers:
            for view in self.views:
                view.follow()
            self._pointers = pointers
        elif self.apart:
            raise PliantError(
                f"this member was moved to {self.views[0].own.dtype} on {self.views[0].own.device}, away from the "
                "family whose weights it shares: move family.model, and members follow; or take family.extract(config)"
            )
        learning = list(map(_LEARNS, self._fulls))
        if learning != self._learning:
            for view in self.views:
                view.learn(self._store)
            self._learning, self._linked = learning, _Linked([])
        if not running and get_ident() in self._readers:
            self.ended()  # an interrupt came between: what was gathered for it is old by now
        self._store.settle()
        differentiable = running and torch.is_grad_enabled()
        for gather in self.gathers.values():
            gather.follow()
            if copies is not None:
                gather.share(copies)
            elif running:
                gather.gather(differentiable)
        if differentiable:
            self._link_gradients()

    def _link_gradients(self) -> None:
        if self._linked.still():
            return
        self._store.attach([full for full in self._all if full.grad is None and full.requires_grad])
        if self._linked.still():  # most often the gradients had been cleared, and nothing else
            return
        learning = [view for view in self.views if view.full.requires_grad]
        cleared = False
        for view in learning:
            buffer = view.full.grad
            if (
                buffer is not view.buffer
                or view.own.grad is None
                or buffer is None
                or buffer.data_ptr() != view.buffer_pointer
            ):
                cleared = view.link(self._store) or cleared
        if cleared:  # by the member's own zero_grad(), which cannot reach what was scattered
            for gather in self.gathers.values():
                gather.clear()
        self._linked = _Linked(learning)

    def before_backward(self, outputs: Any) -> None:
        """Link the gradients again when a backward pass begins: many loops clear them after the forward."""
        if not torch.is_grad_enabled():
            return
        leaves = [outputs] if isinstance(outputs, Tensor) else pytree.tree_leaves(outputs)
        for leaf in leaves:
            if isinstance(leaf, Tensor) and leaf.requires_grad:
                leaf.register_hook(self._relink)

    def _relink(self, gradient: Tensor) -> None:
        self._store.settle_gradients()
        if not self._linked.still(moved=False):
            self._link_gradients()

    @property
    def apart(self) -> bool:
        """Whether the member was moved to another type or device by itself; all of a module moves at once."""
        return bool(self.views) and self.views[0].apart

    def gather(self) -> None:
        """Gather for somebody who writes into the copies, until :meth:`write_back`."""
        for gather in self.gathers.values():
            gather.gather()

    def write_back(self) -> None:
        """Give the family what was written into the gathered copies, such as a loaded state."""
        for gather in self.gathers.values():
            gather.write_back()
            gather.release()

    def begun(self) -> None:
        """Learn that this thread begins a forward: until it ends, no copy is given back."""
        self._readers.add(get_ident())

    def ended(self) -> None:
        """Learn that this thread's forward has ended: what nobody else reads, or shares, is let go of."""
        self._readers.discard(get_ident())
        for gather in self.gathers.values():
            if not gather.shared:
                gather.release()
