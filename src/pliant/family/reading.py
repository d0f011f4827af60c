"""What was read of a gathered parameter at rest: a copy for its reader to look at, write to, or give an optimizer."""

from __future__ import annotations

import warnings
from typing import Any, cast
from weakref import finalize, ref

import torch
from torch import Tensor, nn

from ..checks import NoEffectWarning
from .gradients import GradientStore
from .indexing import Index
from .outside import apart, outside

State = tuple[int, int, bool]


def state_of(full: Tensor) -> State:
    """Return what changes when a tensor is written in place, its data are replaced, or it is frozen."""
    return full._version, full.data_ptr(), full.requires_grad


def held_by(there: ref[nn.Parameter] | None) -> nn.Parameter | None:
    """Return what a weak reference is to, while anybody, or a backward pass that is due, holds it."""
    found: Any = there() if there is not None else None
    if found is not None:
        found._fix_weakref()  # autograd alone may have held it
    return cast("nn.Parameter | None", found)


_BITS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def _same(left: Tensor, right: Tensor) -> bool:
    """Whether two tensors of one type hold the same bits, those of NaNs too."""
    bits = _BITS.get(left.element_size())
    return torch.equal(left, right) if bits is None else torch.equal(left.view(bits), right.view(bits))


class Reading:
    """Keeps a copy that somebody holds and the family's parameter in step, their gradients included.

    Where the reader writes into the copy, as an optimizer does, the family's parameter is written to; where he changes
    the gradient that the copy shows, to clip or to clear it, the family's is changed. That is looked for when a member
    is used next and when the copy is let go of. It lives as long as the copy.

    Args:
        full: the family's parameter.
        index: what the member keeps of it.
        store: the family's gradient buffers.
    """

    __slots__ = (
        "__weakref__",
        "_arrived",
        "_before",
        "_copy",
        "_index",
        "_seen",
        "_shown",
        "_state",
        "_store",
        "_values",
        "_version",
        "full",
    )

    def __init__(self, full: nn.Parameter, index: Index, store: GradientStore) -> None:
        self.full, self._index, self._store = full, index, store
        self._state = state_of(full)
        self._shown: Tensor | None = None  # the gradient that the copy was given
        self._seen = 0  # its version then
        self._arrived: Tensor | None = None  # what autograd is about to add to it

    def hand_out(self) -> nn.Parameter:
        """Return the copy, once."""
        copy = nn.Parameter(self._index.take(self.full.detach()), self.full.requires_grad)
        self._values = copy.detach()  # counts its versions with the copy
        self._version, self._before = self._values._version, self._values.clone()
        self._copy = ref(copy)
        if self.full.requires_grad:
            copy.register_hook(self._arrive)
            copy.register_post_accumulate_grad_hook(self._accumulated)
            self.show()
        self._store.readings[id(copy)] = ref(self)
        finalize(copy, self._let_go, id(copy)).atexit = False
        return copy

    @property
    def copy(self) -> nn.Parameter | None:
        """The copy, while somebody holds it."""
        return held_by(self._copy)

    @property
    def fits(self) -> bool:
        """Whether the copy is of the parameter's type, in its place, and learns where that does."""
        ours, full = self._values, self.full
        copy = self.copy
        learns = copy is not None and copy.requires_grad == full.requires_grad
        return learns and ours.dtype == full.dtype and ours.device == full.device

    def settle(self) -> None:
        """Do to the family's parameter and gradient what the reader did to those of the copy."""
        copy = self.copy
        if copy is not None:
            with apart():
                self._settle_values(copy.detach())
                self._settle_gradient(copy.grad)

    def _settle_values(self, values: Tensor) -> None:
        """Write back what was written, unless the family has other weights by now than those that were read.

        A write through ``.data`` raises no version, so values are looked at.
        """
        if values._version == self._version and _same(values, self._before):
            return
        known, self._values = state_of(self.full) == self._state, values
        self._learn()
        if not known:
            warnings.warn(
                "a weight of a member was read, the family's weights changed, and then the old values were written to: "
                "that is left out; read the weight again before you write to it",
                NoEffectWarning,
                stacklevel=2,
            )
            return
        with outside(), torch.no_grad():
            self._index.put(self.full, values)
        self._state = state_of(self.full)

    def _learn(self) -> None:
        """Remember the copy's values of now."""
        self._version = self._values._version
        with outside(), torch.no_grad():
            self._before.copy_(self._values)

    def refresh(self) -> None:
        """Let the copy have the family's values of today, also those that came through ``.data`` and left no trace."""
        with outside(), torch.no_grad():
            fresh = self._index.take(self.full.detach())
            if not _same(fresh, self._values):
                self._values.copy_(fresh)
                self._learn()
        self._state = state_of(self.full)

    @property
    def stale(self) -> bool:
        """Whether the family's parameter was written to since, as far as that leaves a trace."""
        return state_of(self.full) != self._state

    def settle_gradient(self) -> None:
        """Change the family's gradient as the reader changed the copy's."""
        if (copy := self.copy) is not None:
            self._settle_gradient(copy.grad)

    def _settle_gradient(self, gradient: Tensor | None) -> None:
        if self._shown is None or (gradient is self._shown and gradient._version == self._seen):
            return
        self._shown = gradient
        self._seen = 0 if gradient is None else gradient._version
        if self.full.grad is None or not self.full.requires_grad:
            return
        with outside(), torch.no_grad():
            target = self._store.of(self.full)
            value = target.new_zeros(self._index.shape) if gradient is None else gradient.detach()
            with self._store.buffer(self.full).writing(self._index.parts(target)):
                self._index.put(target, value)

    def show(self) -> None:
        """Let the copy show the family's gradient, if there is one."""
        copy, gradient = self.copy, self.full.grad
        if copy is None or gradient is None or not self.fits:
            return
        with torch.no_grad():
            shown = self._index.take(gradient.detach())
        copy.grad = self._shown = shown
        self._seen = shown._version

    def _arrive(self, gradient: Tensor) -> None:
        self._arrived = gradient.detach()

    def _accumulated(self, copy: Tensor) -> None:
        """Add to the family's gradient what a use of the copy itself gave, as in a penalty on weights."""
        arrived, self._arrived = self._arrived, None
        if arrived is not None:
            with torch.no_grad():
                target = self._store.of(self.full)
                with self._store.buffer(self.full).writing(self._index.parts(target)):
                    self._index.add(target, arrived)
        self.show()

    def _let_go(self, copy_id: int) -> None:
        self._store.readings.pop(copy_id, None)
        with apart():
            self._settle_values(self._values)
            self._settle_gradient(self._shown)  # nobody can take it away any more
