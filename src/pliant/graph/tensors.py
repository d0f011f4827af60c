"""The tensors of a network by their canonical names: tied tensors have one, constants of the graph are included."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from .capture import Capture

# Gives a smaller network its tensor for a canonical name.
Supply = Callable[[str], Tensor]


def full_tensors(model: nn.Module, capture: Capture) -> dict[str, Tensor]:
    """Return every parameter, buffer and graph constant of ``model`` by canonical name."""
    found: dict[str, Tensor] = {}
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        found[capture.aliases.get(name, name)] = tensor
    for spec in capture.inputs.values():
        if spec.kind.name == "CONSTANT_TENSOR" and spec.target is not None:
            found.setdefault(spec.target, capture.program.constants[spec.target])
    return found


def held_tensors(model: nn.Module) -> list[tuple[dict[str, Any], str, Tensor]]:
    """Return every place of a model that holds a tensor: the module's store, the name there, and the tensor."""
    stores = [store for module in model.modules() for store in (module._parameters, module._buffers)]
    return [(store, name, tensor) for store in stores for name, tensor in store.items() if tensor is not None]
