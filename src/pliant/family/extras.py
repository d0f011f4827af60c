"""Parameters that techniques add to a family beside the network's own: transforms of kernels, mixtures, adapters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from ..checks import PliantError
from ..graph.analysis import Analysis
from .place import Placed

_PREFIX = "pliant extra/"  # before their names, where weights are stored


class Extras(dict[str, nn.Parameter]):
    """The added parameters by name.

    Args:
        techniques: asked for what they add: tensors, which are trained, or parameters, one without gradient if frozen.
        analysis: of the full network.
        tensors: its tensors by canonical name.

    Raises:
        PliantError: two techniques add one of the same name.
    """

    def __init__(self, techniques: Sequence[Placed], analysis: Analysis, tensors: Mapping[str, Tensor]) -> None:
        super().__init__()
        self._place: tuple[torch.device, torch.dtype] | None = None
        for placed in techniques:
            for name, value in placed.technique.extras(placed.part(analysis), tensors).items():
                if name in self:
                    raise PliantError(f"two techniques add a parameter named {name!r}; place them apart with pliant.at")
                self[name] = value if isinstance(value, nn.Parameter) else nn.Parameter(value)

    @property
    def statistics(self) -> bool:
        """Whether running statistics of normalisation are among them."""
        return any(name.endswith(("running_mean", "running_var")) for name in self)

    def state(self) -> dict[str, Tensor]:
        """Return their values, under names that no module's state has."""
        return {f"{_PREFIX}{name}": value.detach() for name, value in self.items()}

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Put back what :meth:`state` gave.

        Raises:
            RuntimeError: other names or shapes, as ``nn.Module.load_state_dict``.
        """
        values = {name.removeprefix(_PREFIX): value for name, value in state.items()}
        if values.keys() != self.keys() or any(value.shape != self[name].shape for name, value in values.items()):
            raise RuntimeError(
                f"techniques add the parameters { ({n: tuple(p.shape) for n, p in self.items()}) }, what is stored are "
                f"{ ({n: tuple(v.shape) for n, v in values.items()}) }"
            )
        with torch.no_grad():
            for name, value in values.items():
                self[name].copy_(value)

    def follow(self, model: nn.Module) -> bool:
        """Be where the model's parameters are, in their precision; returns whether the model has moved."""
        like = next((p for p in model.parameters() if p.is_floating_point()), None) if self else None
        if like is None or (like.device, like.dtype) == self._place:
            return False
        before, self._place = self._place, (like.device, like.dtype)
        for parameter in self.values() if before is not None else ():
            parameter.data = parameter.data.to(like.device, like.dtype if parameter.is_floating_point() else None)
        return before is not None


def is_extra(name: str) -> bool:
    """Return whether a stored tensor's name is that of an added parameter."""
    return name.startswith(_PREFIX)
