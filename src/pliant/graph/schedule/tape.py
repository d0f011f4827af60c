"""One forward pass as a list of operations: what each reads and makes, and which tensors share memory.

Operations are those of an exported graph (linear, layer_norm, scaled_dot_product_attention ...), but noted while the
network runs, which takes milliseconds and works where export does not. What is computed from weights alone is taken as
computed beforehand, and what nothing uses is left out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from ..prepare import evaluating, leaving_no_trace, own_copies, without_fast_path


@dataclass(frozen=True)
class Ref:
    """Stands for a tensor in the arguments of an operation: the number of a value."""

    value: int


@dataclass(frozen=True)
class Value:
    """A tensor of the pass: how it lies over its storage. ``offset`` and ``stride`` count elements."""

    storage: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]
    offset: int
    dtype: torch.dtype


@dataclass(frozen=True)
class Operation:
    """One operation.

    Attributes:
        target: the overload of torch that was called.
        args: its arguments and keyword arguments, with :class:`Ref` for tensors.
        reads: the values in ``args``, in order.
        makes: the values of its result, in order.
        writes: the storages that it changes in place.
        view: whether its results lie over the storages of its arguments, and nothing was computed.
    """

    target: Any
    args: tuple[tuple[Any, ...], Mapping[str, Any]]
    reads: tuple[int, ...]
    makes: tuple[int, ...]
    writes: frozenset[int]
    view: bool

    @property
    def name(self) -> str:
        """The operation's plain name, such as ``linear``."""
        return str(self.target._schema.name).partition("::")[2]


@dataclass(frozen=True)
class Tape:
    """A forward pass on one example.

    Attributes:
        values: every tensor.
        sizes: bytes of every storage.
        operations: in order.
        inputs: the example's tensors, by value.
        constants: weights, buffers and what is computed from them alone, by value.
        result: what the network gave, with :class:`Ref` for tensors.
    """

    values: tuple[Value, ...]
    sizes: tuple[int, ...]
    operations: tuple[Operation, ...]
    inputs: Mapping[int, Tensor]
    constants: Mapping[int, Tensor]
    result: Any

    @property
    def results(self) -> tuple[int, ...]:
        """The values in the result."""
        return tuple(leaf.value for leaf in pytree.tree_leaves(self.result) if isinstance(leaf, Ref))

    @property
    def weights(self) -> int:
        """Bytes of the constants that operations read, tied ones once."""
        read = {value for operation in self.operations for value in operation.reads} & self.constants.keys()
        distinct = {}
        for value in read:
            tensor = self.constants[value]
            distinct[tensor.data_ptr(), tuple(tensor.shape), tensor.stride()] = tensor.numel() * tensor.element_size()
        return sum(distinct.values())


def record(net: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any] | None = None) -> Tape:
    """Run ``net`` once in evaluation mode and return what it did; nothing of it changes.

    Where its code branches on data, the tape holds the example's path.
    """
    args, kwargs = own_copies(tuple(args), dict(kwargs or {}))
    recorder = _Recorder()
    inputs = {recorder.number(leaf): leaf for leaf in pytree.tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)}
    # Below autograd, torch hands composite operations such as linear over whole.
    below: Any = torch._C._AutoDispatchBelowAutograd
    with leaving_no_trace(net), evaluating(net), without_fast_path(), torch.no_grad(), below(), recorder:
        result = net(*args, **kwargs)
    result = pytree.tree_map_only(Tensor, lambda tensor: Ref(recorder.number(tensor)), result)
    return _simplified(recorder, inputs, result)


class _Recorder(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.values: list[Value] = []
        self.tensors: list[Tensor] = []  # all are kept, so that no memory is used twice
        self.sizes: list[int] = []
        self.operations: list[Operation] = []
        self._numbers: dict[int, int] = {}
        self._storages: dict[int, int] = {}

    def number(self, tensor: Tensor) -> int:
        """Return the value that ``tensor`` is, a new one where it was not seen before."""
        if id(tensor) not in self._numbers:
            memory = tensor.untyped_storage()
            if memory._cdata not in self._storages:
                self._storages[memory._cdata] = len(self.sizes)
                self.sizes.append(memory.nbytes())
            storage = self._storages[memory._cdata]
            layout = (tuple(tensor.shape), tensor.stride(), int(tensor.storage_offset()))
            self._numbers[id(tensor)] = len(self.values)
            self.values.append(Value(storage, *layout, tensor.dtype))
            self.tensors.append(tensor)
        return self._numbers[id(tensor)]

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = (tuple(args), dict(kwargs or {}))
        noted = pytree.tree_map_only(Tensor, lambda tensor: Ref(self.number(tensor)), given)
        reads = tuple(leaf.value for leaf in pytree.tree_leaves(noted) if isinstance(leaf, Ref))
        writes = frozenset(self.values[value].storage for value in _written(func, noted))
        known = len(self.sizes)
        result = func(*given[0], **given[1])
        makes = tuple(self.number(leaf) for leaf in pytree.tree_leaves(result) if isinstance(leaf, Tensor))
        view = bool(makes) and not writes and all(self.values[value].storage < known for value in makes)
        self.operations.append(Operation(func, noted, reads, makes, writes, view))
        return result


def _written(func: Any, noted: tuple[tuple[Any, ...], Mapping[str, Any]]) -> list[int]:
    found: list[int] = []
    for at, argument in enumerate(func._schema.arguments):
        if argument.alias_info is not None and argument.alias_info.is_write:
            given = noted[0][at] if at < len(noted[0]) else noted[1].get(argument.name)
            found += [leaf.value for leaf in pytree.tree_leaves(given) if isinstance(leaf, Ref)]
    return found


def _simplified(recorder: _Recorder, inputs: Mapping[int, Tensor], result: Any) -> Tape:
    """Take out what depends on no input, and what nothing uses."""
    values, operations = recorder.values, recorder.operations
    storage = [value.storage for value in values]
    live = {storage[value] for value in inputs}
    changed: set[int] = set()  # storages that hold something of the inputs at some time, from their beginning on
    while True:
        depends = set(live | changed)
        for operation in operations:
            touched = {storage[value] for value in (*operation.reads, *operation.makes)} | operation.writes
            if touched & depends and (operation.writes or {storage[v] for v in operation.reads} & depends):
                depends |= {storage[value] for value in operation.makes} | operation.writes
        written = {s for operation in operations for s in operation.writes} & depends
        if written <= changed:
            break
        changed |= written
    kept: list[Operation] = []
    needed = {storage[leaf.value] for leaf in pytree.tree_leaves(result) if isinstance(leaf, Ref)}
    for operation in reversed(operations):
        makes = {storage[value] for value in operation.makes} | operation.writes
        if makes & depends and makes & needed:
            kept.append(operation)
            needed |= {storage[value] for value in operation.reads}
    made = {value for operation in kept for value in operation.makes} | inputs.keys()
    outside = [value for op in kept for value in op.reads] + [
        leaf.value for leaf in pytree.tree_leaves(result) if isinstance(leaf, Ref)
    ]
    constants = {value: recorder.tensors[value] for value in outside if value not in made}
    return Tape(tuple(values), tuple(recorder.sizes), tuple(reversed(kept)), inputs, constants, result)


def one_sample(args: Sequence[Any], kwargs: Mapping[str, Any] | None = None) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return the example with the first entry of its batch alone: of every tensor as long as the first one is."""
    given = (tuple(args), dict(kwargs or {}))
    first = next((leaf for leaf in pytree.tree_leaves(given) if isinstance(leaf, Tensor) and leaf.dim()), None)

    def cut(tensor: Tensor) -> Tensor:
        batched = first is not None and tensor.dim() and tensor.shape[0] == first.shape[0]
        return tensor[:1] if batched else tensor

    one: tuple[tuple[Any, ...], dict[str, Any]] = pytree.tree_map_only(Tensor, cut, given)
    return one
