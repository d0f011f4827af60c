"""What a network's weights weigh: distinct parameters, and the bytes of the safetensors file they make."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from .measurement import Measurement
from .objective import Objective, counted

if TYPE_CHECKING:
    from ..space.problem import Count


@dataclass(frozen=True)
class Params(Objective):
    """The number of parameters; tied ones count once, whether they are one object or two over the same memory."""

    name = "params"
    unit = "parameters"

    def measure(self, member: nn.Module) -> Measurement:
        """Measure ``member``; see the class."""
        distinct = {memory_of(parameter): parameter.numel() for parameter in member.parameters()}
        return Measurement(float(sum(distinct.values())), self.unit)

    def count(self, family: Any) -> Count | None:
        """Return the same for members that are not built; ``None`` where that is not certain."""
        return counted(family, "params", self)


@dataclass(frozen=True)
class Bytes(Objective):
    """The size in bytes of the safetensors file that the network's state makes, header included.

    Computed from names, types and shapes: nothing is written. Tied tensors are stored once.
    """

    name = "bytes"
    unit = "bytes"

    def measure(self, member: nn.Module) -> Measurement:
        """Measure ``member``; see the class."""
        tensors, tied = distinct_state(member)
        return Measurement(float(safetensors_size(tensors, tied)), self.unit)


def memory_of(tensor: torch.Tensor) -> tuple[Any, ...]:
    """Return what tells one stretch of memory from another: equal for tied tensors, also across objects."""
    if tensor.device.type == "meta" or tensor.numel() == 0:
        return ("object", id(tensor))
    return (tensor.device, tensor.dtype, tensor.data_ptr(), tuple(tensor.shape), tensor.stride())


def distinct_state(net: nn.Module) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """Return the tensors of ``net.state_dict()`` without repeats, and the other names of those that are tied.

    The second dictionary maps each name left out to the name kept.
    """
    kept: dict[str, torch.Tensor] = {}
    tied: dict[str, str] = {}
    first: dict[tuple[Any, ...], str] = {}
    for name, value in net.state_dict(keep_vars=True).items():
        if not isinstance(value, torch.Tensor):  # extra state of a module: no weight
            continue
        owner = first.setdefault(memory_of(value), name)
        if owner == name:
            kept[name] = value.detach()
        else:
            tied[name] = owner
    return kept, tied


def safetensors_size(tensors: dict[str, torch.Tensor], metadata: dict[str, str]) -> int:
    """Return the bytes of a safetensors file of ``tensors``: eight, a JSON header padded to eight, the data.

    Offsets are written in decimal, so the order of the data matters: by element size falling, then by name.
    """
    header: dict[str, Any] = {"__metadata__": metadata} if metadata else {}
    offset = 0
    for name in sorted(tensors, key=lambda key: (-tensors[key].element_size(), key)):
        tensor = tensors[name]
        end = offset + tensor.numel() * tensor.element_size()
        kind = _TYPES.get(tensor.dtype, str(tensor.dtype))
        header[name] = {"dtype": kind, "shape": list(tensor.shape), "data_offsets": [offset, end]}
        offset = end
    length = len(json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode())
    return 8 + -(-length // 8) * 8 + offset


_TYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
    torch.complex64: "C64",
    torch.float8_e4m3fn: "F8_E4M3",
    torch.float8_e5m2: "F8_E5M2",
}
