"""What an analysis finds: axes, blocks, sites, and what is kept fixed."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from torch.fx import Node

from .dims import Dim, Reason


@dataclass(frozen=True)
class Touch:
    """One dimension of one parameter, buffer or constant that an axis reaches."""

    tensor: str
    dim: int


@dataclass(frozen=True)
class Axis:
    """Tensor dimensions that must change size together.

    ``kind`` is ``stream`` (residual), ``heads``, ``head_width``, ``group`` (query heads that share a key head) or
    ``width`` (everything else). ``size`` counts units; a touched dimension may hold several entries per unit.
    """

    name: str
    kind: str
    size: int
    touches: tuple[Touch, ...]
    operations: tuple[str, ...]
    atom: Dim = field(repr=False, compare=False)

    @property
    def parameters(self) -> tuple[str, ...]:
        """The names of the tensors that this axis cuts, in the network's order."""
        return tuple(dict.fromkeys(touch.tensor for touch in self.touches))


@dataclass(frozen=True)
class Interface:
    """How a block is called: the ``result``-th of its flat outputs could be its ``hidden``-th flat input (same shape).

    ``passed`` maps the other flat outputs to the flat inputs that they are (identical objects), None for those that the
    block makes, -1 for outputs that hold no tensor; ``spec`` is the structure of the outputs. ``plain`` says that it
    takes one positional tensor and returns one. The result of a ``branch`` is added to the residual path by the code
    around it: where it is left out, it gives zeros; other blocks hold the addition and give their input.
    """

    hidden: int
    result: int
    passed: tuple[int | None, ...]
    spec: Any
    plain: bool = False
    branch: bool = False


@dataclass(frozen=True)
class Block:
    """A part of the network that can be left out: ``module`` is its path, ``run`` names the row of blocks it is in.

    Leaving it out means using ``before`` wherever ``after`` was used.
    """

    name: str
    module: str
    run: str
    interface: Interface = field(repr=False, compare=False)
    before: Node = field(repr=False, compare=False)
    after: Node = field(repr=False, compare=False)
    region: tuple[Node, ...] = field(repr=False, compare=False)


@dataclass(frozen=True)
class Site:
    """One weight-bearing operation: its module's path, its kind, the weight, and the terms of what goes in and out."""

    name: str
    kind: str
    weight: str
    shape: tuple[int, ...]
    node: Node = field(repr=False, compare=False)


@dataclass(frozen=True)
class Fixed:
    """Something that is kept as it is, and why."""

    what: str
    size: int
    reason: Reason
