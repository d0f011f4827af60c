"""One gradient buffer for each of the family's parameters, and what is known of where it holds anything."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import cache

import torch
from torch import Tensor, nn

WORTH_COUNTING = 1 << 18  # bytes; of smaller buffers all is cleared: to keep count would take longer

_MANY = 32  # parts, beyond which the whole buffer counts as written


@cache
def _accept_strided_gradients() -> None:
    """Spend torch's once-per-process advice about strided gradients on a toy: ours are strided on purpose."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        toy = nn.Parameter(torch.zeros(2, 4)[:, :2])
        toy.grad = torch.zeros(2, 4)[:, :2]
        with torch.enable_grad():
            toy.sum().backward()


class Buffer:
    """The memory of one gradient, and which parts of it were written since it was cleared.

    Every write in place raises a tensor's version: one that nobody told of shows, and all counts as written.
    """

    __slots__ = ("_memory", "_version", "clean", "tensor", "written")

    def __init__(self) -> None:
        self.tensor = torch.empty(0)
        self.written: list[Tensor] = []
        self.clean = False  # cleared on purpose, and nobody's gradient since
        self._version = -1  # up to here all writes are known
        self._memory = 0  # where they went: a model that moves to another precision takes its gradients along

    @property
    def counted(self) -> bool:
        """True where every write since it was cleared is known."""
        return self._version == self.tensor._version and self._memory == self.tensor.data_ptr()

    def cleared(self) -> None:
        """All of it is zero now: count from here."""
        self.written, self._version, self._memory = [], self.tensor._version, self.tensor.data_ptr()

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
        """Tell of writes to views of this buffer; those that only multiply need none, as zeros stay."""
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

    def __init__(self) -> None:
        _accept_strided_gradients()
        self._buffers: dict[int, Buffer] = {}

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

    def attach(self, parameters: Iterable[nn.Parameter]) -> None:
        """Give parameters without a gradient their buffers, all zeros, in one go: one by one takes longer."""
        stale = []
        for parameter in parameters:
            buffer = self.buffer(parameter)
            if _assigned(parameter, buffer.tensor):
                if not (buffer.clean and buffer.counted):
                    stale.append(buffer)
            else:
                buffer.tensor = torch.zeros_like(parameter, memory_format=torch.preserve_format, requires_grad=False)
                buffer.cleared()
                parameter.grad = buffer.tensor
            buffer.clean = False
        _zero(stale, everywhere=True)  # the last holder may have written through ``.data``, which leaves no trace

    def clear(self, parameters: Iterable[nn.Parameter]) -> None:
        """Take every gradient away, and zero what was written of its buffer: no more where all writes are known."""
        stale = []
        for parameter in parameters:
            gradient = parameter.grad
            if gradient is not None:
                buffer = self._buffers.get(id(parameter))
                if buffer is not None and buffer.tensor is gradient:
                    stale.append(buffer)
                parameter.grad = None
        _zero(stale, everywhere=False)
        for buffer in stale:
            buffer.clean = True

    @contextmanager
    def scaling(self) -> Iterator[None]:
        """Tell that gradients are only multiplied by finite numbers meanwhile: from nothing, nothing comes."""
        with ExitStack() as stack:
            for buffer in self._buffers.values():
                stack.enter_context(buffer.writing(()))
            yield


def _assigned(parameter: nn.Parameter, gradient: Tensor) -> bool:
    """Try to make a tensor a parameter's gradient; false where the parameter is of another shape, type or device."""
    try:
        parameter.grad = gradient
    except (RuntimeError, TypeError):
        return False
    return True
