"""One gradient buffer for each of the family's parameters, and what is known of where it holds anything.

Large buffers are cleared where members wrote. Small ones lie side by side in one :class:`Arena` and are cleared in one
go: to keep count of each would take longer than to clear them all.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from operator import attrgetter, is_
from typing import TYPE_CHECKING
from weakref import ref

import torch
from torch import Tensor, nn

from .optimizers import watch

if TYPE_CHECKING:
    from .reading import Reading

_MANY = 32  # parts, beyond which the whole buffer counts as written
_ALIGNED = 64  # bytes, at multiples of which small buffers begin, as tensors of their own would
_GRADIENT = attrgetter("grad")


@cache
def _accept_strided_gradients() -> None:
    """Spend torch's once-per-process advice about strided gradients on a toy: ours are strided on purpose."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        toy = nn.Parameter(torch.zeros(2, 4)[:, :2])
        toy.grad = torch.zeros(2, 4)[:, :2]
        with torch.enable_grad():
            toy.sum().backward()


class Arena:
    """The memory of small gradients of one type on one device, and their buffers.

    Args:
        rows: the parameters, and the buffers that get their gradients here.
    """

    __slots__ = ("_buffers", "_memory", "_parameters", "_pointers", "_tensors", "_version", "inside")

    def __init__(self, rows: Sequence[tuple[nn.Parameter, Buffer]]) -> None:
        self._parameters, self._buffers = [p for p, _ in rows], [buffer for _, buffer in rows]
        self.inside = frozenset(map(id, self._parameters))
        starts = [0]
        for parameter in self._parameters:
            starts.append(starts[-1] + -(-parameter.nbytes // _ALIGNED) * _ALIGNED)
        self._memory = torch.zeros(starts[-1], dtype=torch.uint8, device=self._parameters[0].device)
        self._version = self._memory._version
        self._tensors = [
            self._memory[start : start + like.nbytes].view(like.dtype).view(like.shape)
            for start, like in zip(starts, self._parameters, strict=False)
        ]
        self._pointers = list(map(Tensor.data_ptr, self._tensors))
        for (parameter, buffer), tensor in zip(rows, self._tensors, strict=True):
            buffer.lie_in(self, tensor)
            parameter.grad = tensor

    @property
    def untouched(self) -> bool:
        """Whether all gradients lie here still, and nobody has written to any of them since they were cleared."""
        return self._memory._version == self._version and self.in_place

    @property
    def in_place(self) -> bool:
        """Whether all gradients lie here still: those of a model that moves move along."""
        return list(map(Tensor.data_ptr, self._tensors)) == self._pointers

    @property
    def handed_out(self) -> bool:
        """Whether all parameters have the gradients that they were given, wherever those lie now."""
        return all(map(is_, map(_GRADIENT, self._parameters), self._tensors))

    @property
    def holds_all(self) -> bool:
        """Whether the gradients of all parameters lie here, each in its place."""
        try:
            return list(map(Tensor.data_ptr, map(_GRADIENT, self._parameters))) == self._pointers
        except TypeError:  # one has none
            return False

    def take_away(self) -> None:
        """Take the gradients away and clear them, all together; do nothing where one is not what was handed out.

        One after another, dozens of small gradients take longer to look after than some to compute.
        """
        if self.handed_out and self.in_place:
            for parameter in self._parameters:
                parameter.grad = None
            for buffer in self._buffers:
                buffer.clean = True
            with torch.no_grad():
                self.clear()

    def clear(self) -> None:
        """Make all gradients zero."""
        self._memory.zero_()
        self._version = self._memory._version


class Buffer:
    """The memory of one gradient, and which parts of it were written since it was cleared.

    Every write in place raises a tensor's version: one that nobody told of shows, and all counts as written.
    """

    __slots__ = ("_memory", "_version", "clean", "lies_in", "tensor", "written")

    def __init__(self) -> None:
        self.tensor = torch.empty(0)
        self.written: list[Tensor] = []
        self.clean = False  # cleared on purpose, and nobody's gradient since
        self._version = -1  # up to here all writes are known
        self._memory = 0  # where they went: a model that moves to another precision takes its gradients along
        self.lies_in: Arena | None = None  # when it was made

    def lie_in(self, arena: Arena | None, tensor: Tensor) -> None:
        """Have ``tensor``, all zeros, as the gradient."""
        self.tensor, self.lies_in = tensor, arena
        self.cleared()

    @property
    def arena(self) -> Arena | None:
        """What the gradient lies in, if it still does."""
        return self.lies_in if self._memory == self.tensor.data_ptr() else None

    @property
    def counted(self) -> bool:
        """True where every write since it was cleared is known."""
        return self._version == self.tensor._version and self._memory == self.tensor.data_ptr()

    def cleared(self) -> None:
        """All of it is zero now: count from here."""
        self.written, self._version, self._memory = [], self.tensor._version, self.tensor.data_ptr()

    def only_scaled(self) -> None:
        """Learn that all writes of late left zeros zero."""
        self._version = self.tensor._version

    def accumulated(self, own: Tensor) -> None:
        """Learn that a backward pass has just added to the gradient of ``own``, if that is a view of this buffer."""
        part = own.grad
        if part is None or self._version + 1 != self.tensor._version:
            self._version = -1
        elif part is self.tensor or part._base is self.tensor:
            self._version += 1
            if all(part is not other for other in self.written):
                self.written = [*self.written, part] if len(self.written) < _MANY else [self.tensor]
        else:
            self._version = -1

    @contextmanager
    def writing(self, parts: Sequence[Tensor]) -> Iterator[None]:
        """Tell of writes to views of this buffer."""
        counted = self.counted
        yield
        if counted:
            self.written += parts
            self._version = self.tensor._version
            if len(self.written) > _MANY:
                self.written = [self.tensor]


def _zero(buffers: Sequence[Buffer], everywhere: bool) -> None:
    parts = [[b.tensor] if everywhere or not b.counted else b.written for b in buffers]
    with torch.no_grad():
        if stale := [part for each in parts for part in each]:
            torch._foreach_zero_(stale)
    for buffer in buffers:
        buffer.cleared()


class GradientStore:
    """One gradient buffer per family parameter, however many members learn and however often gradients are cleared."""

    worth_counting = 1 << 18  # bytes of a parameter, from which its buffer is cleared by what was written

    def __init__(self) -> None:
        _accept_strided_gradients()
        watch(self)
        self._buffers: dict[int, Buffer] = {}
        self.readings: dict[int, ref[Reading]] = {}  # by the id of the copy that somebody holds
        self._arenas: list[Arena] = []
        # What zero() was asked for last: all, the arenas that held their gradients, and who was not among those.
        self._others: tuple[Sequence[nn.Parameter], list[Arena], list[nn.Parameter]] | None = None

    def held(self) -> list[tuple[int, Reading]]:
        """Return what is known of copies of the family's parameters that somebody holds, by the copies' ids."""
        found = list(self.readings.items()) if self.readings else []  # a collection may end some meanwhile
        return [(key, reading) for key, there in found if (reading := there()) is not None]

    def settle(self) -> None:
        """Do to the family what was done to such copies and to their gradients."""
        for _, reading in self.held():
            reading.settle()

    def settle_gradients(self) -> None:
        """Do to the family's gradients what was done to those of such copies."""
        for _, reading in self.held():
            reading.settle_gradient()

    def show(self, parameter: nn.Parameter) -> None:
        """Let such copies of a parameter show its gradient of now."""
        for _, reading in self.held():
            if reading.full is parameter:
                reading.show()

    def counts(self, parameter: nn.Parameter) -> bool:
        """Return whether the parameter's buffer wants to be told of what is written to it."""
        return parameter.nbytes >= self.worth_counting

    def buffer(self, parameter: nn.Parameter) -> Buffer:
        """Return a parameter's buffer, which may have to be made yet."""
        found = self._buffers.get(id(parameter))
        if found is None:
            found = self._buffers[id(parameter)] = Buffer()
        return found

    def of(self, parameter: nn.Parameter) -> Tensor:
        """Make the buffer the parameter's gradient and return it: zero where the parameter has none.

        A gradient that autograd made by itself is taken over. Were it left, members that were linked to it would keep
        it alive, each another one.
        """
        gradient, buffer = parameter.grad, self.buffer(parameter)
        if gradient is buffer.tensor:
            return buffer.tensor
        parameter.grad = None
        self.attach([parameter])
        if gradient is not None:
            with torch.no_grad():
                buffer.tensor.copy_(gradient)
        return buffer.tensor

    def adopt(self, parameters: Iterable[nn.Parameter]) -> None:
        """Make sure that all gradients of a network that is about to learn are the family's."""
        if torch.is_grad_enabled():
            learning = [p for p in parameters if p.requires_grad]
            self.attach([p for p in learning if p.grad is None])
            for parameter in learning:
                self.of(parameter)

    def attach(self, parameters: Sequence[nn.Parameter]) -> None:
        """Give parameters without a gradient their buffers, all zeros, in one go: one by one takes longer."""
        try:
            buffers = [self._buffers[id(parameter)] for parameter in parameters]
            for parameter, buffer in zip(parameters, buffers, strict=True):
                parameter.grad = buffer.tensor
        except (KeyError, RuntimeError, TypeError):  # a new one, or of another shape, type or device by now
            buffers = list(map(self.buffer, parameters))
            self._make(parameters, buffers)
        stale: list[Buffer] = []
        untouched: dict[Arena | None, bool] = {arena: arena.untouched for arena in self._arenas}
        for buffer in buffers:
            # The last holder may have written through ``.data``, which leaves no trace.
            if not (buffer.clean and (untouched.get(buffer.lies_in) or buffer.counted)):
                stale.append(buffer)
            buffer.clean = False
        if stale:
            _zero(stale, everywhere=True)

    def _make(self, parameters: Sequence[nn.Parameter], buffers: Sequence[Buffer]) -> None:
        """Give parameters their buffers, new ones where those that they have do not fit."""
        small: dict[tuple[torch.dtype, torch.device], list[tuple[nn.Parameter, Buffer]]] = {}
        for parameter, buffer in zip(parameters, buffers, strict=True):
            if _assigned(parameter, buffer.tensor):
                continue
            buffer.clean = True
            if self.counts(parameter) or not parameter.is_contiguous() or type(parameter.data) is not Tensor:
                made = torch.zeros_like(parameter, memory_format=torch.preserve_format, requires_grad=False)
                buffer.lie_in(None, made)
                parameter.grad = made
            else:
                small.setdefault((parameter.dtype, parameter.device), []).append((parameter, buffer))
        for pairs in small.values():
            Arena(pairs)
        if small:
            self._arenas = list(dict.fromkeys(b.lies_in for b in self._buffers.values() if b.lies_in is not None))

    def clear(self, parameters: Iterable[nn.Parameter]) -> None:
        """Take the family's gradients away, and zero what was written of their buffers.

        Args:
            parameters: all that the family has: small buffers are cleared together.
        """
        for arena in self._arenas:
            arena.take_away()
        stale: list[Buffer] = []
        arenas: set[Arena] = set()
        for parameter in parameters:
            gradient = parameter.grad
            if gradient is None:
                continue
            parameter.grad = None
            buffer = self._buffers.get(id(parameter))
            if buffer is not None and buffer.tensor is gradient:
                buffer.clean = True
                if (lies_in := buffer.arena) is None:
                    stale.append(buffer)
                else:
                    arenas.add(lies_in)
        with torch.no_grad():
            for arena in arenas:
                arena.clear()
        if stale:
            _zero(stale, everywhere=False)

    def zero(self, parameters: Sequence[nn.Parameter]) -> None:
        """Zero the family's gradients where they lie, large ones where they were written; parameters keep them.

        Args:
            parameters: all that the family has: small buffers are cleared together. The same list each time is quicker.
        """
        held = [arena for arena in self._arenas if arena.holds_all]
        for arena in held:  # to look at each gradient would take longer than to clear them all
            arena.clear()
        if self._others is None or self._others[0] is not parameters or self._others[1] != held:
            inside = frozenset[int]().union(*(arena.inside for arena in held))
            self._others = parameters, held, [p for p in parameters if id(p) not in inside]
        if others := self._others[2]:
            self._zero_each(others, [arena for arena in self._arenas if arena not in held and arena.in_place])

    def _zero_each(self, parameters: Sequence[nn.Parameter], arenas: Sequence[Arena]) -> None:
        """Zero the gradients of some parameters, and ``arenas``, where some of them lie."""
        stale: list[Buffer] = []
        with torch.no_grad():
            for arena in arenas:
                arena.clear()
            for parameter in parameters:
                gradient = parameter.grad
                if gradient is None:
                    continue
                buffer = self._buffers.get(id(parameter))
                if buffer is None or buffer.tensor is not gradient:
                    gradient.zero_()
                elif buffer.lies_in not in arenas:
                    stale.append(buffer)
        if stale:
            _zero(stale, everywhere=False)

    @contextmanager
    def scaling(self) -> Iterator[None]:
        """Tell that gradients are only multiplied by finite numbers meanwhile: from nothing, nothing comes."""
        counted = [buffer for buffer in self._buffers.values() if buffer.counted]
        yield
        for buffer in counted:
            buffer.only_scaled()


def _assigned(parameter: nn.Parameter, gradient: Tensor) -> bool:
    """Try to make a tensor a parameter's gradient; false where the parameter is of another shape, type or device."""
    try:
        parameter.grad = gradient
    except (RuntimeError, TypeError):
        return False
    return True
