"""A space of larger networks that all start as one trained network: what a search for growth chooses from.

Efficient architecture search (Cai, Chen, Zhang, Yu and Wang, 2018, Efficient Architecture Search by Network
Transformation, arXiv 1707.04873) lets a controller widen and deepen a trained network; each child inherits the weights,
so it need not be trained from the start. Path-level transformation (Cai, Yang, Zhang, Han and Yu, 2018, Path-Level
Network Transformation for Efficient Architecture Search, arXiv 1806.02639) also puts branches in the place of layers,
and branches in those. Here the growths are choices, and any searcher chooses; the first paper's controller is one of
the catalogue. Of the second paper this has the edits on the topology, in trees of two branches each, and not its
tree-structured controller, nor the other operations (pooling, separable convolutions) that it puts on the branches.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from typing import Any
from weakref import WeakKeyDictionary

from torch import nn

from ..checks import WrongShapeError
from ..graph.analysis import Analysis, analyze
from ..graph.growing import branched, deeper, shareable, wider
from ..space.choice import Choice, Option
from ..space.config import Config
from ..space.program import ProgramForms
from ..space.space import Space

ONE, MEAN, PARTS = "one", "mean", "parts"
"""What may stand in the place of a layer: itself, two copies that are averaged, or two parts of its outputs."""


class Growth:
    """What a trained network can grow into. It has what a search needs: ``space`` and ``ready(config)``.

    Args:
        model: the network; it is not changed.
        example_args: arguments that it runs on, the batch first.
        widths: axis name to the numbers of units to choose from, for instance ``{"blocks.0.mlp.width": (256, 384)}``;
            the present number is always a choice. :func:`pliant.analyze` lists the axes.
        after: paths of activations after which a layer may be put; or of each the dimension of features there, 1 where
            it is not given, or -1 where layers are linear.
        branches: path of a layer, or of a module that takes and gives one tensor, to how often branches may be put in
            its place: 2 means that each branch may become two again.
        seed: of the units that are replicated, and of the noise.
        noise: see :func:`~pliant.graph.growing.wider`; without any, copies that are averaged stay equal when trained.

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
        after: Sequence[str] | Mapping[str, int] = (),
        branches: Mapping[str, int] | None = None,
        *,
        seed: int = 0,
        noise: float = 0.0,
    ) -> None:
        self.model, self.analysis = model, analyze(model, example_args)
        self._args, self._seed, self._noise = tuple(example_args), seed, noise
        self._axes = list(widths or {})
        self._after = dict(after) if isinstance(after, Mapping) else dict.fromkeys(after, 1)
        self._levels = dict(sorted((branches or {}).items(), key=lambda item: len(item[0])))  # outer ones first
        choices = [Choice(name, self._units(name, units)) for name, units in (widths or {}).items()]
        choices += [Choice(f"{path}.deeper", (False, True)) for path in self._after]
        inside: list[tuple[tuple[int, frozenset[int]], ...]] = [()] * len(choices)
        for path, levels in self._levels.items():
            around: dict[str, tuple[tuple[int, frozenset[int]], ...]] = {"": ()}
            options = self._topologies(path, levels)
            for address in _addresses(levels):
                above = around[address.rpartition(".branches.")[0]] if address else ()
                around[address] = (*above, (len(choices), frozenset({1, 2})))
                inside.append(above)
                choices.append(Choice(f"{path}{address}.paths", options, ordered=False))
        if not choices:
            raise WrongShapeError(
                "nothing can grow: give widths of some axes, activations to put layers after, or layers to branch"
            )
        self.space = Space(choices)
        self.counts = ProgramForms(self.space, inside)
        self._grown: WeakKeyDictionary[nn.Module, Config] = WeakKeyDictionary()
        self._kept: list[tuple[Config, nn.Module]] = []
        self.ready(self.space.largest())  # what cannot grow shows now, not in the middle of a search

    def _units(self, name: str, units: Sequence[int]) -> tuple[int, ...]:
        size = self.analysis.axis(name).size
        if min(units, default=0) < size:
            raise WrongShapeError(f"axis {name!r} has {size} units and can only grow, got {tuple(units)}")
        return tuple(sorted({size, *units}))

    def _topologies(self, path: str, levels: int) -> tuple[str, ...]:
        if levels < 1:
            raise WrongShapeError(f"branches at {path!r} may be put in at least once, got {levels}")
        layer = dict(self.model.named_modules()).get(path, self.model)  # an unknown path is refused by branched
        return (ONE, MEAN, PARTS) if shareable(layer, 2**levels) else (ONE, MEAN)

    # ---- networks ----------------------------------------------------------------------------------------------------
    def ready(self, config: Mapping[str, Option]) -> nn.Module:
        """Return a new network in evaluation mode that has grown as ``config`` says.

        It computes what :attr:`model` does; or what the network does that was kept last of those that ``config`` can
        grow from.

        Raises:
            UnknownNameError, WrongShapeError: the config is not of this space.
        """
        made = self.space.check(config)
        for was, net in reversed(self._kept):
            if self._excess(was, made) is None:
                return self.grown(net, was, made)
        return self._remember(self._from_root(made), made)

    def _from_root(self, made: Config) -> nn.Module:
        units = {name: int(made[name]) for name in self._axes}  # type: ignore[arg-type]
        net = wider(self.model, self.analysis, units, seed=self._seed, noise=self._noise)
        return self._edited(net, self.space.smallest(), made)

    def grown(self, net: nn.Module, was: Mapping[str, Option], config: Mapping[str, Option]) -> nn.Module:
        """Return a new network in evaluation mode that has grown from ``net`` as ``config`` says, and computes as it.

        Args:
            net: what was made of the config ``was``, with whatever weights it learnt since; it is not changed.
            was: its config.
            config: nothing in it is smaller than in ``was``.

        Raises:
            UnknownNameError, WrongShapeError: a config is not of this space, or ``config`` is no growth of ``was``.
            VerificationError: the growth would change what the network computes.
        """
        before, made = self.space.check(was), self.space.check(config)
        name = self._excess(before, made)
        if name is not None:
            raise WrongShapeError(f"{name} can only grow, from {before[name]!r}, got {made[name]!r}")
        result = self._edited(copy.deepcopy(net).eval(), before, made)
        if any(made[axis] != before[axis] for axis in self._axes):
            analysis = analyze(result, self._args)
            target = self._shapes(made)
            result = wider(result, analysis, _wanted(analysis, target), seed=self._seed, noise=self._noise)
            if self._shapes_of(result) != target:
                raise WrongShapeError(f"the network cannot be widened further to {dict(made)!r}: start from the model")
        return self._remember(result, made)

    def keep(self, net: nn.Module) -> None:
        """Let later networks grow from ``net``, made by :meth:`ready` or :meth:`grown` and trained since.

        It is kept as it is now. A search whose objective trains a network calls this at the end, so that the children
        of a good one inherit what it learnt. What is kept is known in this process alone, and not stored in a study.

        Raises:
            WrongShapeError: the network was not made here.
        """
        config = self._grown.get(net)
        if config is None:
            raise WrongShapeError("only a network that ready() or grown() of this Growth returned can be kept")
        self._kept.append((config, copy.deepcopy(net).eval()))

    def _remember(self, net: nn.Module, config: Config) -> nn.Module:
        self._grown[net] = config
        return net

    # ---- edits -------------------------------------------------------------------------------------------------------
    def _excess(self, before: Config, made: Config) -> str | None:
        """Return the name of a choice that matters in ``before`` and does not grow to ``made``, if there is one."""
        [active] = self.counts.active(self.space.indices([before]))
        [old, new] = self.space.indices([before, made])
        for at, choice in enumerate(self.space.choices):
            if active[at] and new[at] != old[at] and (new[at] < old[at] or (not choice.ordered and old[at] != 0)):
                return choice.name
        return None

    def _edited(self, net: nn.Module, before: Config, made: Config) -> nn.Module:
        """Return ``net`` (itself, where nothing is to do) with the layers and branches of ``made``."""
        state = {name: ONE if name in self._idle(before) else option for name, option in before.items()}
        idle = self._idle(made)
        for path, dim in self._after.items():
            if made[f"{path}.deeper"] and not state[f"{path}.deeper"]:
                for spot in self._spots(path, state):
                    net = deeper(net, self.analysis, spot, dim)
        for path, levels in self._levels.items():
            for address in _addresses(levels):
                name = f"{path}{address}.paths"
                if name in idle or made[name] == state[name]:
                    continue
                for spot in self._spots(path, state, inner=False):
                    parts = made[name] == PARTS
                    net = branched(
                        net, self.analysis, spot + address, concatenate=parts, seed=self._seed, noise=self._noise
                    )
                state[name] = made[name]
        return net

    def _idle(self, config: Config) -> set[str]:
        [active] = self.counts.active(self.space.indices([config]))
        return {choice.name for choice, matters in zip(self.space.choices, active, strict=True) if not matters}

    def _spots(self, path: str, state: Mapping[str, Option], *, inner: bool = True) -> list[str]:
        """Return where the module ``path`` of the model is in a network of ``state``: once in every branch around it.

        Args:
            path: of the model.
            state: config; what does not matter is :data:`ONE`.
            inner: whether branches that stand for the module itself count.
        """
        found, done = [""], 0
        for root, levels in self._levels.items():
            if path.startswith(f"{root}.") or (inner and path == root):
                leaves = list(_leaves(root, "", levels, state))
                found = [spot + path[done : len(root)] + leaf for spot in found for leaf in leaves]
                done = len(root)
        return [spot + path[done:] for spot in found]

    def _shapes(self, made: Config) -> dict[str, tuple[int, ...]]:
        return self._shapes_of(self._from_root(made))

    @staticmethod
    def _shapes_of(net: nn.Module) -> dict[str, tuple[int, ...]]:
        return {name: tuple(tensor.shape) for name, tensor in net.state_dict().items()}


def _addresses(levels: int) -> list[str]:
    """Return where branches may be put in below a place, outer ones first: ``""``, ``".branches.0"`` …"""
    found, last = [""], [""]
    for _ in range(levels - 1):
        last = [f"{each}.branches.{at}" for each in last for at in range(2)]
        found += last
    return found


def _leaves(root: str, address: str, levels: int, state: Mapping[str, Option]) -> Iterator[str]:
    """Yield the addresses below ``root`` of what has no branches in ``state``."""
    if levels == 0 or state[f"{root}{address}.paths"] == ONE:
        yield address
        return
    for at in range(2):
        yield from _leaves(root, f"{address}.branches.{at}", levels - 1, state)


def _wanted(analysis: Analysis, target: Mapping[str, Sequence[int]]) -> dict[str, int]:
    """Return how many units each axis must have for the tensors to have the shapes of ``target``."""
    found = {}
    for axis in analysis.axes:
        for touch in axis.touches:
            dim = analysis.trace.parameters[touch.tensor][touch.dim].root()
            if touch.tensor not in target or dim.kind == "concat":
                continue
            found[axis.name] = axis.size * target[touch.tensor][touch.dim] // dim.size
            if dim is axis.atom.root():
                break  # certain, where in a product another factor may have grown
    return found
