"""A cell that may stand in the place of a layer: branches in branches, with other operations on them.

Path-level transformation (Cai, Yang, Zhang, Han and Yu, 2018, Path-Level Network Transformation for Efficient
Architecture Search, arXiv 1806.02639): a trained layer becomes copies that are averaged, or parts that are
concatenated; after a copy a layer that does nothing is put, which becomes branches in turn; and what does nothing on a
branch gives way to an operation. Copies, parts and operations that begin as the identity keep the function.

This implementation differs from the paper, where batch normalisation and a ReLU follow a convolution. Operations
have no normalisation, which cannot begin as the identity while it normalises by the batch (one that can may be given as
``own``), and a ReLU on request. What pooling changes is left to the training that follows, where the paper lets the
network imitate the one that it grew from at first (for that, train with the model as the teacher:
``pliant.distillation_loss``).
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from random import Random

import torch
from torch import Tensor, nn

from ..checks import VerificationError, WrongShapeError, first_line, unknown
from ..graph.analysis import Analysis
from ..graph.growing import Noise, check_same, output_at, parted, put, shareable
from ..graph.prepare import seeded
from ..graph.primitives import KEEPING, PRIMITIVES, primitive
from ..space.choice import Choice, Option
from ..space.trees import IDENTITY, MEAN, ONE, PARTS, Node, Slot, tree_choices

_PAPER = ("convolution 1", "separable 3", "separable 5", "separable 7", "average 3", "max 3")


@dataclass(frozen=True)
class TreeCell:
    """What may grow in the place of a layer; a value of ``branches`` of :class:`~pliant.Growth`.

    Attributes:
        levels: how often branches may part on the way to a leaf: once, the layer's own copies; then what follows them.
        operations: what may stand on a branch after the layer in the place of nothing, by name; see
            :data:`pliant.graph.primitives.PRIMITIVES`. By default those of the paper.
        most: branches that are averaged.
        dim: the dimension of features in what the layer gives: 1, or -1 where layers are linear.
        relu: whether operations with weights end in a ReLU, as in the paper: only where nothing is negative.
        own: further operations: name to what makes one for a number of features. It keeps the shape.
    """

    levels: int = 2
    operations: tuple[str, ...] = _PAPER
    most: int = 3
    dim: int = 1
    relu: bool = False
    own: Mapping[str, Callable[[int], nn.Module]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if isinstance(self.operations, str):
            raise WrongShapeError(f"operations are a tuple of names, got the text {self.operations!r}")
        if self.levels < 1 or self.most < 2 or self.dim not in (1, -1):
            raise WrongShapeError(
                f"levels is at least 1, most at least 2 and dim 1 or -1, got {self.levels}, {self.most} and {self.dim}"
            )
        for name in self.operations:
            if name not in PRIMITIVES:
                raise unknown("operation", name, PRIMITIVES)
        taken = [name for name in self.own if name in PRIMITIVES]
        if taken:
            raise WrongShapeError(f"an own operation needs a name of its own, {taken[0]!r} is taken")

    @property
    def names(self) -> tuple[str, ...]:
        """The operations that a branch may have, the identity first."""
        return tuple(dict.fromkeys((IDENTITY, *self.operations, *self.own)))

    def choices(self, model: nn.Module, analysis: Analysis, place: str) -> list[Choice]:
        """Return the choices of this cell in the ``place`` of a layer of ``model``, each operation tried there.

        Raises:
            UnknownNameError: there is no such module.
            WrongShapeError: an operation does not fit what the layer gives, or changes its shape.
            VerificationError: operations would end in a ReLU where something is negative.
        """
        given = output_at(model, analysis, place)
        if given.dim() < 2:
            raise WrongShapeError(f"{place!r} gives the shape {tuple(given.shape)}: there is no dimension of features")
        if self.relu and float(given.min()) < 0:
            raise VerificationError(
                f"relu=True would change what the network computes: {place!r} gives negative values on the example, "
                f"down to {float(given.min()):.3g}. Choose a place after a ReLU, or leave relu=False"
            )
        features = given.shape[self.dim]
        parts = features >= 2**self.levels
        for count in _shares(features, self.levels if parts else 0) if self.levels > 1 else ():
            some = given.narrow(self.dim, 0, count)
            for name in self.names:
                self.made(name, some, f"{place}.then", Noise())
        first = parts and shareable(model.get_submodule(place), 2**self.levels)
        inner = (ONE, MEAN, PARTS) if parts else (ONE, MEAN)
        merges = [(ONE, MEAN, PARTS) if first else (ONE, MEAN), *([inner] * (self.levels - 1))]
        return tree_choices(place, merges, self.names, self.most)

    def made(self, name: str, given: Tensor, at: str, noise: Noise) -> nn.Module:
        """Return the operation ``name`` for tensors like ``given``, to be put in at ``at``.

        Raises:
            WrongShapeError: it does not take such tensors, or does not keep their shape.
        """
        mine = Random(f"{noise.seed}:{at}").getrandbits(63)  # equal operations on different branches differ in noise
        if name in self.own:
            with seeded(mine):
                operation = self.own[name](given.shape[self.dim]).eval()
        else:
            operation = primitive(name, given.shape, self.dim, relu=self.relu, seed=mine, noise=noise.level)
        operation = operation.to(given)
        what = f"the operation {name!r} at {at!r}, of {given.shape[self.dim]} features,"
        try:
            with torch.no_grad():
                result = operation(given)
        except Exception as error:  # whatever a layer of the user's may raise
            raise WrongShapeError(
                f"{what} does not run on the shape {tuple(given.shape)}: {first_line(error)}. An operation takes the "
                "number of features and returns a module that keeps the shape"
            ) from error
        got = tuple(result.shape) if isinstance(result, Tensor) else type(result).__name__
        if got != tuple(given.shape):
            raise WrongShapeError(
                f"{what} gives {got} where {tuple(given.shape)} comes in: branches are merged, so an operation keeps "
                "the shape; give it a stride of 1, and as much padding as its kernel needs"
            )
        return operation

    # ---- edits -------------------------------------------------------------------------------------------------------
    def settled(self, node: Node, before: Mapping[str, Option], made: Mapping[str, Option]) -> str | None:
        """Return the name of a choice of which ``made`` says something else than ``before``, too late, if there is one.

        Branches part before anything else is on them, and how many are averaged stays.
        """
        old = before[f"{node.name}.merge"]
        if old == MEAN and node.count is not None and made[f"{node.name}.count"] != before[f"{node.name}.count"]:
            return f"{node.name}.count"
        first = node.slots[0]
        started = first.grow is not None and bool(before[f"{first.name}.grow"])
        started |= first.operation is not None and before[f"{first.name}.operation"] != IDENTITY
        if made[f"{node.name}.merge"] != old and started:
            return f"{node.name}.merge"
        for slot in node.slots[: node.branches(before)]:
            if slot.then is not None and before[f"{slot.name}.grow"]:
                name = self.settled(slot.then, before, made)
                if name is not None:
                    return name
        return None

    def keeps(self, node: Node, config: Mapping[str, Option]) -> bool:
        """Return whether all operations of ``config`` begin as the identity."""
        for slot in node.slots[: node.branches(config)]:
            if slot.operation is not None and config[f"{slot.name}.operation"] not in KEEPING:
                return False
            if slot.then is not None and config[f"{slot.name}.grow"] and not self.keeps(slot.then, config):
                return False
        return True


def leaves(node: Node, config: Mapping[str, Option]) -> Iterator[str]:
    """Yield the addresses, below its place, of the copies of the layer of the first ``node`` of a cell."""
    for address, slot in _slots(node, "", config):
        yield f"{address}.0" if slot.then is not None and config[f"{slot.name}.grow"] else address


def _slots(node: Node, at: str, config: Mapping[str, Option]) -> Iterator[tuple[str, Slot]]:
    alone = config[f"{node.name}.merge"] == ONE
    for number, slot in enumerate(node.slots[: node.branches(config)]):
        yield (at if alone else f"{at}.branches.{number}"), slot


def _shares(features: int, levels: int) -> list[int]:
    """Return how many features a branch may get, most first, whose parts are shared out up to ``levels`` times."""
    found = {features}
    for _ in range(levels):
        found |= {count // 2 for count in found} | {count - count // 2 for count in found}
    return sorted(found, reverse=True)


class Gardener:
    """Puts cells into networks.

    Args:
        cell: what may be put in.
        analysis: gives the example that results are checked on.
        noise: see :class:`~pliant.Growth`; its seed is also that of first weights.
    """

    def __init__(self, cell: TreeCell, analysis: Analysis, noise: Noise) -> None:
        self._cell, self._analysis, self._noise = cell, analysis, noise

    def grown(
        self, net: nn.Module, node: Node, at: str, before: Mapping[str, Option], made: Mapping[str, Option]
    ) -> nn.Module:
        """Return ``net`` (itself, where nothing is to do) with what ``made`` has of the cell more than ``before``.

        Args:
            net: its state is ``before``, in which what is not there has the smallest options.
            node: the first of the cell.
            at: its path in the network.
            before: config.
            made: config.

        Raises:
            WrongShapeError: an operation does not keep the shape.
            VerificationError: the function would change, though nothing that was put in changes it.
        """
        given = output_at(net, self._analysis, at)
        result = copy.deepcopy(net).eval()
        put_in = list(self._edit(result, node, at, given, before, made))
        if put_in and KEEPING.issuperset(put_in) and not self._noise.level:
            check_same(net, result, self._analysis, f"the cell at {at!r}")
        return result if put_in else net

    def _edit(
        self,
        net: nn.Module,
        node: Node,
        at: str,
        given: Tensor,
        before: Mapping[str, Option],
        made: Mapping[str, Option],
    ) -> Iterator[str]:
        """Edit ``net`` in place; yield each operation that was put in, and the identity for each other edit."""
        merge, count, dim = made[f"{node.name}.merge"], node.branches(made), self._cell.dim
        if merge != before[f"{node.name}.merge"]:
            put(net, at, parted(net.get_submodule(at), at, count, merge == PARTS, dim, self._noise))
            yield IDENTITY
        shares = given.tensor_split(count, dim=dim) if merge == PARTS else [given] * count
        for (here, slot), share in zip(_slots(node, at, made), shares, strict=True):
            has = slot.then is not None and bool(before[f"{slot.name}.grow"])
            name = None if slot.operation is None else str(made[f"{slot.name}.operation"])
            if name is not None and name != before[f"{slot.name}.operation"]:
                place = f"{here}.0" if has else here
                put(net, place, self._cell.made(name, share, place, self._noise))
                yield name
            if slot.then is not None and made[f"{slot.name}.grow"]:
                if not has:
                    put(net, here, nn.Sequential(net.get_submodule(here), nn.Identity()))
                    yield IDENTITY
                yield from self._edit(net, slot.then, f"{here}.1", share, before, made)
