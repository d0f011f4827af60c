"""Parameters of members that are gathered copies: there only while somebody uses them.

Where what a member keeps of a tensor is no range (fused projections, concatenations), its parameter is a copy, and the
gradient of the copy is scattered to the family's as soon as it has been accumulated. A forward gathers, and lets go of
its copies when it ends: autograd holds what a backward pass needs. Who reads such a parameter at rest gets a copy that
is gathered for him. So there is one copy of the weights, however many members are alive.
"""

from __future__ import annotations

from collections.abc import Collection, ItemsView, Iterator, ValuesView
from typing import TYPE_CHECKING, Any
from weakref import ref

import torch
from torch import Tensor, nn

from .gradients import GradientStore
from .indexing import Index
from .outside import outside
from .reading import Reading, held_by, state_of

if TYPE_CHECKING:
    from .copies import Copies

_Held = Tensor | None  # a copy that autograd has made is no parameter by its type


class Parameters(dict[str, _Held]):
    """The parameters of a module, some of which are gathered when they are read.

    It stands in ``module._parameters``. Those who read a dict without asking it (C code) find an empty parameter where
    nothing is gathered, and the copy while a forward runs.
    """

    def __init__(self, parameters: dict[str, _Held]) -> None:
        super().__init__(parameters)
        self.gathers: dict[str, GatherAlias] = {}

    def __getitem__(self, name: str) -> _Held:
        held, gather = super().__getitem__(name), self.gathers.get(name)
        return gather.read() if gather is not None and held is gather.empty else held

    def __setitem__(self, name: str, value: _Held) -> None:
        gather = self.gathers.get(name)
        if gather is not None and value is not None and gather.made(value):
            value = gather.own  # what was read is put back, as `torch.func.functional_call` does
        super().__setitem__(name, value)

    def get(self, name: str, default: Any = None) -> Any:
        """Return the parameter, or ``default``."""
        try:
            return self[name]
        except KeyError:
            return default

    def pop(self, name: str, *default: Any) -> Any:
        """Take the parameter away and return it."""
        if name not in self:
            return super().pop(name, *default)
        value = self[name]
        del self[name]
        return value

    def __iter__(self) -> Iterator[str]:  # `dict(self)` copies without asking, unless there is one
        return super().__iter__()

    def items(self) -> Any:
        """Return the names and parameters."""
        return ItemsView(self)

    def values(self) -> Any:
        """Return the parameters."""
        return ValuesView(self)

    def copy(self) -> dict[str, _Held]:
        """Return an ordinary dict."""
        return dict(self)

    def __reduce__(self) -> tuple[Any, ...]:
        return dict, (dict(self),)  # a copy of the member is nobody's member


class GatherAlias:
    """A member's parameter that is a gathered copy; its gradient is scattered to the family's after each backward.

    Args:
        full: the family's parameter.
        index: what the member keeps of it.
        store: the family's gradient buffers.
        readers: the threads that run the member now; the member's set of aliases keeps it.
    """

    __slots__ = (
        "__weakref__",
        "_homes",
        "_last",
        "_reading",
        "_shows",
        "_store",
        "empty",
        "full",
        "index",
        "leaf",
        "own",
        "readers",
        "shared",
    )

    def __init__(self, full: nn.Parameter, index: Index, store: GradientStore, readers: Collection[int]) -> None:
        # Nothing here refers back to the member or its set: a cycle would keep dropped members until a collection.
        self.full, self._store = full, store
        self._homes: list[tuple[ref[Parameters], str]] = []
        self.index = index
        self.leaf: nn.Parameter | None = None
        empty = torch.empty(self.index.shape, dtype=full.dtype, device="meta")
        self.empty = nn.Parameter(empty, full.requires_grad)
        self.own: Tensor = self.empty
        self._last: ref[nn.Parameter] | None = None
        self._reading: ref[Reading] | None = None  # of what was read last
        self._shows = False  # whether the leaf tells when its gradient has grown
        self.readers = readers
        self.shared = False  # with other members that gather the same

    def stand_in(self, module: nn.Module, name: str) -> None:
        """Let ``module`` read its parameter ``name`` from here."""
        home: dict[str, Any] = module._parameters
        if not isinstance(home, Parameters):
            home = module.__dict__["_parameters"] = Parameters(home)
        home.gathers[name] = self
        self._homes.append((ref(home), name))

    @property
    def at_home(self) -> bool:
        """Whether it stands anywhere in the member."""
        return bool(self._homes)

    def made(self, value: Tensor) -> bool:
        """Return whether a tensor is the copy that was made last, by a forward or for a reader."""
        reading = self._read_last()
        return value is held_by(self._last) or (reading is not None and value is reading.copy)

    def read(self) -> nn.Parameter:
        """Return a copy for somebody who reads the parameter at rest: the same as long as it is held."""
        with outside():
            reading = self._read_last()
            if reading is not None and (copy := reading.copy) is not None and not _unknown(copy) and reading.fits:
                reading.settle()
                reading.refresh()
                return copy
            if _unknown(self.full):
                fresh = self._copy()
                self._last = ref(fresh)
                return fresh
            if self.leaf is not None and self.leaf.requires_grad and not self._shows:
                store, full = self._store, self.full
                self.leaf.register_post_accumulate_grad_hook(lambda _: store.show(full))
                self._shows = True
            reading = Reading(self.full, self.index, self._store)
            copy = reading.hand_out()
            self._reading = ref(reading)
            return copy

    def _read_last(self) -> Reading | None:
        return self._reading() if self._reading is not None else None

    def follow(self) -> None:
        """Let a copy that somebody holds have the family's values of today."""
        reading = self._read_last()
        if reading is not None and reading.stale and reading.fits:
            reading.refresh()

    def gather(self, learning: bool = False) -> None:
        """Put a new copy in the parameter's place: a backward pass that is still due keeps the old one.

        Where there is a ``leaf``, a view of the family's parameter that holds all that is picked, autograd itself may
        learn (``learning``) how the copy came about: that is quicker than to scatter its gradient afterwards.
        """
        if self._lent:
            return
        if learning and self.leaf is not None:
            self._put(self.leaf.reshape(self.index.shape))  # no parameter: nobody gets it who reads at rest
        else:
            copy = self._copy()
            self._last = ref(copy)
            self._put(copy)
        self.shared = False

    def share(self, copies: Copies) -> None:
        """Put the copy in its place that all share who gather the same, new only where a trace of a change is seen."""
        if self._lent:
            return
        own = copies.of(self, self.index.key, state_of(self.full), self._copy)
        if own is not self.own:
            self._last = ref(own)
            self._put(own)
        self.shared = True

    def release(self) -> None:
        """Let go of the copy, unless a forward reads it."""
        if self.own is not self.empty and not self.readers:
            self._put(self.empty)

    def clear(self) -> None:
        """Take what was scattered into the family's gradient out of it, as the member's own gradients were cleared."""
        if self.full.requires_grad and self.full.grad is not None:
            target = self._store.of(self.full)
            with self._store.buffer(self.full).writing(()):
                self.index.put(target, torch.zeros(self.index.shape, dtype=target.dtype, device=target.device))

    def write_back(self) -> None:
        """Give the family the values that somebody has written into the copy."""
        if self.own is not self.empty:
            with torch.no_grad():
                self.index.put(self.full, self.own)

    def _copy(self) -> nn.Parameter:
        full, index, store = self.full, self.index, self._store
        own = nn.Parameter(index.take(full.detach()), full.requires_grad)
        if full.requires_grad:
            own.register_post_accumulate_grad_hook(lambda own: _scatter(own, index, store, full))
        return own

    @property
    def _lent(self) -> bool:
        """Whether another tensor stands in this one's place meanwhile, as `torch.func.functional_call` has it."""
        for there, name in self._homes:
            home = there()
            if home is not None and dict.get(home, name) is not self.own:
                return True
        return False

    def _put(self, own: Tensor) -> None:
        for there, name in self._homes:
            home = there()
            if home is not None and dict.get(home, name) is self.own:
                dict.__setitem__(home, name, own)
        self.own = own


def _unknown(copy: Tensor) -> bool:
    """Whether a tensor's values cannot be looked at: there are none, or none is computed, as in `torch.export`."""
    return copy.is_meta or torch._guards.detect_fake_mode() is not None


def _scatter(own: Tensor, index: Index, store: GradientStore, full: nn.Parameter) -> None:
    if own.grad is None:
        return
    target = store.of(full)
    if store.counts(full):
        with store.buffer(full).writing(index.parts(target)):
            index.add(target, own.grad)
    else:
        index.add(target, own.grad)
    own.grad = None
    store.show(full)
