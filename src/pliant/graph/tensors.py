"""The tensors of a network by their canonical names: tied tensors have one, constants of the graph are included."""

from __future__ import annotations

from collections.abc import Callable
from operator import is_
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


class HeldTensors:
    """Remembers every place of a model that holds a tensor, to tell quickly whether it still does."""

    def __init__(self, model: nn.Module) -> None:
        stores = [store for module in model.modules() for store in (module._parameters, module._buffers)]
        rows = [(store, name, tensor) for store in stores for name, tensor in store.items() if tensor is not None]
        self._stores: list[dict[str, Any]] = [store for store, _, _ in rows]
        self._names, self._tensors = [name for _, name, _ in rows], [tensor for _, _, tensor in rows]

    def still(self) -> bool:
        """Return whether the tensors are those that were there."""
        return all(map(is_, map(dict.get, self._stores, self._names), self._tensors))
