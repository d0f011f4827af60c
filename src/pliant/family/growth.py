"""A space of larger networks that all start as one trained network: what a search for growth chooses from.

Efficient architecture search (Cai, Chen, Zhang, Yu and Wang, 2018, Efficient Architecture Search by Network
Transformation, arXiv 1707.04873) lets a controller widen and deepen a trained network; each child inherits the weights,
so it need not be trained from the start. Here the growths are choices, and any searcher chooses; the paper's own
controller, which looks at the layers of the network as it is, is not here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from ..checks import WrongShapeError
from ..graph.analysis import analyze
from ..graph.growing import deeper, wider
from ..space.choice import Choice, Option
from ..space.space import Space


class Growth:
    """What a trained network can grow into. It has what a search needs: ``space`` and ``ready(config)``.

    Args:
        model: the network; it is not changed.
        example_args: arguments that it runs on, the batch first.
        widths: axis name to the numbers of units to choose from, for instance ``{"blocks.0.mlp.width": (256, 384)}``;
            the present number is always a choice. :func:`pliant.analyze` lists the axes.
        after: paths of activations after which a layer may be put.
        dim: the dimension of features there: 1, or -1 where layers are linear.
        seed: of the units that are replicated.
        noise: see :func:`~pliant.graph.growing.wider`.

    Raises:
        WrongShapeError: nothing to choose from, or fewer units than there are.
        UnknownNameError: an axis or a module that the network does not have.
        VerificationError: a growth would change what the network computes.
    """

    def __init__(
        self,
        model: nn.Module,
        example_args: Sequence[Any],
        widths: Mapping[str, Sequence[int]] | None = None,
        after: Sequence[str] = (),
        *,
        dim: int = 1,
        seed: int = 0,
        noise: float = 0.0,
    ) -> None:
        self.model, self.analysis = model, analyze(model, example_args)
        self._dim, self._seed, self._noise = dim, seed, noise
        self._axes = list(widths or {})
        self._after = list(after)
        choices = []
        for name, units in (widths or {}).items():
            size = self.analysis.axis(name).size
            if min(units, default=0) < size:
                raise WrongShapeError(f"axis {name!r} has {size} units and can only grow, got {tuple(units)}")
            choices.append(Choice(name, tuple(sorted({size, *units}))))
        choices += [Choice(f"{path}.deeper", (False, True)) for path in after]
        if not choices:
            raise WrongShapeError("nothing can grow: give widths of some axes, or activations to put layers after")
        self.space = Space(choices)
        self.ready(self.space.largest())  # what cannot grow shows now, not in the middle of a search

    def ready(self, config: Mapping[str, Option]) -> nn.Module:
        """Return a new network in evaluation mode that has grown as ``config`` says and computes what it did before.

        Raises:
            UnknownNameError, WrongShapeError: the config is not of this space.
        """
        made = self.space.check(config)
        units = {name: int(made[name]) for name in self._axes}  # type: ignore[arg-type]
        net = wider(self.model, self.analysis, units, seed=self._seed, noise=self._noise)
        for path in self._after:
            if made[f"{path}.deeper"]:
                net = deeper(net, self.analysis, path, self._dim)
        return net
