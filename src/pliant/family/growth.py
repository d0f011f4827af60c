"""A space of larger networks that all start as one trained network: what a search for growth chooses from.

Efficient architecture search (Cai, Chen, Zhang, Yu and Wang, 2018, Efficient Architecture Search by Network
Transformation, arXiv 1707.04873) lets a controller widen and deepen a trained network; each child inherits the weights,
so it need not be trained from the start. Path-level transformation (Cai, Yang, Zhang, Han and Yu, 2018, Path-Level
Network Transformation for Efficient Architecture Search, arXiv 1806.02639) also puts branches in the place of layers,
and branches in those, with other operations on them (:class:`~pliant.TreeCell`). Here the growths are choices, and any
searcher chooses; the controllers of both papers are in the catalogue.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from typing import Any
from weakref import WeakKeyDictionary

from torch import nn

from ..checks import WrongShapeError
from ..graph.analysis import Analysis, analyze
from ..graph.growing import Noise, branched, deeper, shareable, wider
from ..space.choice import Choice, Option
from ..space.config import Config
from ..space.program import ProgramForms
from ..space.space import Space
from ..space.trees import MEAN, ONE, PARTS, Around, Node, conditions, trees
from .tree_cell import Gardener, TreeCell, leaves


class Growth:
    """What a trained network can grow into. It has what a search needs: ``space`` and ``ready(config)``.

    Args:
        model: the network; it is not changed.
        example_args: arguments that it runs on, the batch first.
        widths: axis name to the numbers of units to choose from, for instance ``{"blocks.0.mlp.width": (256, 384)}``;
            the present number is always a choice. :func:`pliant.analyze` lists the axes.
        after: paths of activations after which a layer may be put; or of each the dimension of features there, 1 where
            it is not given, or -1 where layers are linear.
        branches: path of a layer, or of a module that takes and gives one tensor, to how often two branches may be put
            in its place: 2 means that each branch may become two again. Or to a :class:`~pliant.TreeCell`, a tree of
            branches with operations on them.
        seed: of the units that are replicated, and of the noise.
        noise: see :func:`~pliant.graph.growing.wider`; without any, copies that are averaged stay equal when trained.

    Raises:
        WrongShapeError: nothing to choose from, or fewer units than there are.
        UnknownNameError: an axis or a module that the network does not have, or an operation that there is not.
        VerificationError: a growth would change what the network computes.
    """

    def __init__(
        self,
        model: nn.Module,
        example_args: Sequence[Any],
        widths: Mapping[str, Sequence[int]] | None = None,
        after: Sequence[str] | Mapping[str, int] = (),
        branches: Mapping[str, int | TreeCell] | None = None,
        *,
        seed: int = 0,
        noise: float = 0.0,
    ) -> None:
        self.model, self.analysis = model, analyze(model, example_args)
        self._args, self._seed, self._noise = tuple(example_args), seed, noise
        self._axes = list(widths or {})
        self._after = dict(after) if isinstance(after, Mapping) else dict.fromkeys(after, 1)
        outer_first = sorted((branches or {}).items(), key=lambda item: len(item[0]))
        self._levels = {path: how for path, how in outer_first if not isinstance(how, TreeCell)}
        self._cells = {path: how for path, how in outer_first if isinstance(how, TreeCell)}
        self._roots = [path for path, _ in outer_first]
        choices = [Choice(name, self._units(name, units)) for name, units in (widths or {}).items()]
        choices += [Choice(f"{path}.deeper", (False, True)) for path in self._after]
        inside: list[Around] = [()] * len(choices)
        for path, levels in self._levels.items():
            self._add_branches(path, levels, choices, inside)
        for path, cell in self._cells.items():
            choices += cell.choices(model, self.analysis, path)
        self._nodes: dict[str, Node] = {node.name: node for node in trees(choices) if node.name in self._cells}
        self._parts: dict[str, set[str]] = {}  # of a cell: its choices
        for path, node in self._nodes.items():
            decided = sorted(conditions(node, choices).items())
            inside += [around for _, around in decided]
            self._parts[path] = {choices[at].name for at, _ in decided}
        if not choices:
            raise WrongShapeError(
                "nothing can grow: give widths of some axes, activations to put layers after, or layers to branch"
            )
        self.space = Space(choices)
        self.counts = ProgramForms(self.space, inside)
        self._grown: WeakKeyDictionary[nn.Module, Config] = WeakKeyDictionary()
        self._kept: list[tuple[Config, nn.Module]] = []
        self.ready(self.space.largest())  # what cannot grow shows now, not in the middle of a search

    def _add_branches(self, path: str, levels: int, choices: list[Choice], inside: list[Around]) -> None:
        """Add the choices of pairs of branches in the place ``path``, and inside what each is."""
        around: dict[str, Around] = {"": ()}
        options = self._topologies(path, levels)
        for address in _addresses(levels):
            above = around[address.rpartition(".branches.")[0]] if address else ()
            around[address] = (*above, (len(choices), frozenset({1, 2})))
            inside.append(above)
            choices.append(Choice(f"{path}{address}.paths", options, ordered=False))

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
        grow from. Operations that do not begin as the identity change that, see :meth:`keeps`.

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

        Operations that do not begin as the identity, and are not in ``net``, change that.

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
            raise WrongShapeError(f"{name} can only grow, from {before[name]!r}, got {made[name]!r}{self._hint(name)}")
        result = self._edited(copy.deepcopy(net).eval(), before, made)
        if any(made[axis] != before[axis] for axis in self._axes):
            analysis = analyze(result, self._args)
            target = self._shapes(made)
            result = wider(result, analysis, _wanted(analysis, target), seed=self._seed, noise=self._noise)
            if self._shapes_of(result) != target:
                raise WrongShapeError(f"the network cannot be widened further to {dict(made)!r}: start from the model")
        return self._remember(result, made)

    def keeps(self, config: Mapping[str, Option]) -> bool:
        """Return whether every operation of ``config`` begins as the identity: no pooling, and none of the user's own.

        Raises:
            UnknownNameError, WrongShapeError: the config is not of this space.
        """
        made = self.space.check(config)
        return all(self._cells[path].keeps(node, made) for path, node in self._nodes.items())

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
        late = (self._cells[path].settled(node, before, made) for path, node in self._nodes.items())
        return next((name for name in late if name is not None), None)

    def _hint(self, name: str) -> str:
        place, _, role = name.rpartition(".")
        if role in ("merge", "count") and any(
            place == node.name for root in self._nodes.values() for node in root.nodes()
        ):
            return ": branches part once, before anything else is put on them, and are as many from then on"
        return ""

    def _edited(self, net: nn.Module, before: Config, made: Config) -> nn.Module:
        """Return ``net`` (itself, where nothing is to do) with the layers and branches of ``made``."""
        lost, idle, least = self._idle(before), self._idle(made), self.space.smallest()
        state = {name: least[name] if name in lost else option for name, option in before.items()}
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
        for path, node in self._nodes.items():
            gardener = Gardener(self._cells[path], self.analysis, Noise(self._seed, self._noise))
            for spot in self._spots(path, state, inner=False):
                net = gardener.grown(net, node, spot, state, made)
            state |= {name: made[name] for name in self._parts[path]}
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
        for root in self._roots:
            if path.startswith(f"{root}.") or (inner and path == root):
                if root in self._nodes:
                    ends = list(leaves(self._nodes[root], state))
                else:
                    ends = list(_leaves(root, "", self._levels[root], state))
                found = [spot + path[done : len(root)] + end for spot in found for end in ends]
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
