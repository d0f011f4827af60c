"""Cutting an alternative operation together with the network around its slot.

The alternative is captured by itself, its terms are laid beside those of the network at the slot's ends, and it is
sliced as any network is. What its structure does not allow, the member does not do: it keeps more of the axes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.fx import Node
from torch.utils import _pytree as pytree

from ...checks import PliantError
from ...family.maps import install
from ...graph.analysis import Analysis
from ...graph.capture import capture
from ...graph.dims import Dim, atoms, flat
from ...graph.module_form import ModuleForm
from ...graph.nouns import Axis
from ...graph.prepare import has_meta
from ...graph.realise import difference, outputs, sliced_copy
from ...graph.rules import RULES
from ...graph.slicing import Pick, Slicing, take
from ...graph.trace import Tracer, is_tensor
from ._slots import IDENTITY, Alternative, Call, Slot
from ._writes import nodes_of

if TYPE_CHECKING:
    from ...family.draft import Draft

Dims = list[Dim]


@dataclass(frozen=True)
class Ends:
    """The terms at a slot's ends: of input and output for each call, or only those of all that goes in and out.

    ``unseen`` says that the slot is no operation of the graph (an ``nn.Identity``): its ends are not known.
    """

    pairs: tuple[tuple[Dims, Dims], ...]
    rim: tuple[Dim, ...]
    unseen: bool = False


def ends_of(trace: Tracer, slot: Slot) -> Ends:
    """Find the ends of a slot in the captured graph."""
    inside = nodes_of(trace, slot.paths)
    pairs, rim = [], []
    parts = list(_connected(inside))
    for part in parts:
        read = dict.fromkeys(n for node in part for n in node.all_input_nodes)
        entries = [node for node in read if _enters(trace, node, part)]
        exits = [node for node in part if any(user not in part for user in node.users)]
        rows = [trace.dims.get(node) for node in (*entries, *exits)]
        rim += [dim for row in rows for dim in _flat(row)]
        if len(entries) == len(exits) == 1 and all(row and isinstance(row[0], Dim) for row in rows):
            pairs.append((list(rows[0]), list(rows[1])))  # type: ignore[arg-type]
    known = len(pairs) == len(parts) == len(slot.calls) and all(call.single for call in slot.calls)
    return Ends(tuple(pairs) if known else (), tuple(rim), not inside)


def _connected(nodes: Sequence[Node]) -> Iterator[set[Node]]:
    """Split operations into those of one call each: calls of one module meet only through what is outside of it."""
    rest = set(nodes)
    for node in nodes:
        if node not in rest:
            continue
        part, todo = set(), [node]
        while todo:
            one = todo.pop()
            if one in rest:
                rest.discard(one)
                part.add(one)
                todo += [*one.all_input_nodes, *one.users]
        yield part


def _enters(trace: Tracer, node: Node, part: set[Node]) -> bool:
    if node in part or not is_tensor(node):
        return False
    return node.op != "placeholder" or trace.capture.inputs[str(node.target)].kind.name == "USER_INPUT"


def _flat(dims: Any) -> Iterator[Dim]:
    if isinstance(dims, Dim):
        yield dims
    elif dims is not None:
        for inner in dims:
            yield from _flat(inner)


class _OpenTracer(Tracer):
    """Traces a part of a network: the sizes of its inputs and outputs may change."""

    def _placeholder(self, node: Node) -> None:
        super()._placeholder(node)
        value = node.meta.get("val")
        if self.capture.inputs[str(node.target)].kind.name == "USER_INPUT" and isinstance(value, Tensor):
            given = self.dims[node]
            self.dims[node] = [dim if dim.source is not None else Dim(dim.size) for dim in given]

    def _output(self, node: Node) -> None:
        return None


class _Laid:
    """An alternative captured as it is called, its terms beside those of the network at the ends of such calls."""

    def __init__(self, trace: Tracer, sides: tuple[Dims, Dims], pairs: Sequence[tuple[Dims, Dims]]) -> None:
        self.pairs = pairs
        self.tied: dict[Dim, list[Dim]] = {}  # its own term: those of the network that are cut as it is
        self.stiff: list[Dim] = []  # terms of the network that must stay whole
        for pair in pairs:
            for theirs, own in zip(pair, sides, strict=True):
                for a, b in zip(theirs, own, strict=True):
                    self._match(a, b)
        for term in [term for term in self.tied if term.reason is not None]:
            self.stiff += self.tied.pop(term)
        axes = tuple(Axis(f"end{i}", "width", term.size, (), (), term) for i, term in enumerate(self.tied))
        self.analysis = Analysis(axes, (), (), (), trace)

    def _match(self, theirs: Dim, own: Dim) -> None:
        """Lay a term of the network beside one of the alternative."""
        theirs, own = theirs.root(), own.root()
        if own.kind == "atom":
            self.tied.setdefault(own, []).append(theirs)
            return
        if theirs.kind == own.kind:
            left, right = flat(theirs, theirs.kind), flat(own, own.kind)
            if [part.size for part in left] == [part.size for part in right]:
                for a, b in zip(left, right, strict=True):
                    self._match(a, b)
                return
        self.stiff.append(theirs)
        for atom in atoms(own):  # whatever else is tied to these cannot be cut either
            self.tied.setdefault(atom, []).append(Dim(atom.size))

    def slicing(self, outer: Slicing) -> Slicing | None:
        """Return what stays of the alternative where ``outer`` stays of the network; ``None`` where all of it does."""
        picks = {axis.name: outer.pick(self.tied[axis.atom][0]) for axis in self.analysis.axes}
        keep = {name: _units(pick) for name, pick in picks.items() if pick is not None}
        return Slicing(self.analysis, keep) if keep else None

    def agrees(self, outer: Slicing, module: nn.Module, as_it_is: bool) -> bool:
        """Compare both forms of the alternative, cut, on what it gets then; ``as_it_is`` for ``module`` unchanged."""
        cut, captured = self.slicing(outer), self.analysis.capture
        if cut is None or has_meta(module):
            return True
        given, result = self.pairs[0]
        picks = [outer.pick(dim) for dim in given]
        args, kwargs = pytree.tree_map(
            lambda value: take(value, picks) if isinstance(value, Tensor) else value,
            (captured.args, dict(captured.kwargs)),
        )
        try:
            graph = outputs(sliced_copy(module, cut, "graph", jitter=True), args, kwargs)
            own = outputs(module if as_it_is else sliced_copy(module, cut, "module", jitter=True), args, kwargs)
        except Exception:  # noqa: BLE001  (code that insists on its sizes)
            return False
        return difference(own, graph) <= 1e-5 and list(own[0].shape) == [outer.size(dim) for dim in result]


class Fitting:
    """How an alternative fits between the ends of its slot, whatever is cut there.

    Args:
        slot: where.
        alternative: what.
        ends: of the slot.
    """

    def __init__(self, slot: Slot, alternative: Alternative, ends: Ends) -> None:
        self._slot, self._alternative, self._ends = slot, alternative, ends
        # What holds no tensors may be called with several sizes by one member.
        self._as_it_is = len(ends.pairs) > 1 and not alternative.tensors()
        self._checked = False

    @cached_property
    def _laid(self) -> list[_Laid]:
        """The alternative beside the network; made only where something is cut around it."""
        pairs, calls = self._ends.pairs, self._slot.calls
        if self._alternative.name == IDENTITY or not pairs:
            return []
        if not self._as_it_is:
            same = [pair for pair, call in zip(pairs, calls, strict=True) if call.shape == calls[0].shape]
            return [laid for laid in [self._lay(calls[0], same)] if laid is not None]
        rows = [self._lay(call, [pair]) for pair, call in zip(pairs, calls, strict=True)]
        return [laid for laid in rows if laid is not None]

    def _lay(self, call: Call, pairs: Sequence[tuple[Dims, Dims]]) -> _Laid | None:
        device = next((tensor.device for tensor in self._alternative.tensors().values()), torch.device("cpu"))
        try:
            trace = _OpenTracer(capture(self._alternative.module, *call.example(device))).run(RULES)
        except PliantError:  # it cannot be captured
            return None
        sides = _sides(trace)
        return None if sides is None else _Laid(trace, sides, pairs)

    @cached_property
    def _ties(self) -> list[list[Dim]]:
        """Groups of terms of the network that must be cut alike."""
        if self._alternative.name == IDENTITY:
            return [[a, b] for given, result in self._ends.pairs for a, b in zip(given, result, strict=True)]
        return [terms for laid in self._laid for terms in laid.tied.values()]

    @cached_property
    def _stiff(self) -> list[Dim]:
        """Terms of the network that must stay whole."""
        if self._alternative.name == IDENTITY and self._ends.pairs:
            return []
        seen = [id(pair) for laid in self._laid for pair in laid.pairs]
        missing = [pair for pair in self._ends.pairs if id(pair) not in seen]
        if not self._ends.pairs:
            return list(self._ends.rim)
        return [
            *(dim for laid in self._laid for dim in laid.stiff),
            *(dim for pair in missing for side in pair for dim in side),
        ]

    def widen(self, draft: Draft, slicing: Slicing, axes: Mapping[Dim, Axis]) -> bool:
        """Keep as much more of the axes as the alternative needs; returns whether there was need."""
        if self._ends.unseen:
            return bool(self._alternative.tensors()) and _hold(draft, axes, list(axes))
        if all(slicing.pick(dim) is None for dim in self._ends.rim):
            return False
        changed = _hold(draft, axes, self._stiff)
        for terms in self._ties:
            changed |= _level(draft, slicing, axes, terms)
        if not changed and not self._checked and any(laid.slicing(slicing) for laid in self._laid):
            self._checked = True
            if not all(laid.agrees(slicing, self._alternative.module, self._as_it_is) for laid in self._laid):
                self._stiff = list(self._ends.rim)
                return _hold(draft, axes, self._stiff)
        return changed

    def cut(self, slicing: Slicing) -> Slicing | None:
        """Return what stays of the alternative in a member; ``None`` where it is left as it is."""
        return self._laid[0].slicing(slicing) if self._laid and not self._as_it_is else None

    @cached_property
    def _form(self) -> ModuleForm:
        return ModuleForm(self._alternative.module, self._laid[0].analysis)

    def built(self, slicing: Slicing, tensor: Callable[[str], Tensor], copies: bool) -> nn.Module:
        """Return the alternative for a member.

        Args:
            slicing: what stays of the network.
            tensor: the family's parameter (or buffer) by the name that it has in the alternative.
            copies: take values for good; else its parameters are the family's own.
        """
        cut = self.cut(slicing)

        def supply(name: str) -> Tensor:
            whole = tensor(name)
            value = take(whole.detach(), cut.picks(name)) if cut else whole.detach()
            if not isinstance(whole, nn.Parameter) or name not in learning:
                return value.clone()
            if not copies and not cut:
                return whole
            return nn.Parameter(value.clone() if copies else value, whole.requires_grad)

        learning = dict(self._alternative.module.named_parameters())
        if cut is None:
            return self._alternative.filled(supply)
        net = self._form.build(cut, supply)
        if not copies:
            places: dict[str, list[str]] = {}
            for place, first in cut.analysis.capture.aliases.items():
                places.setdefault(first, []).append(place)
            for name in learning:
                for place in places[name]:
                    path, _, last = place.rpartition(".")
                    net.get_submodule(path)._parameters[last] = tensor(name)  # type: ignore[assignment]
            install(net, {name: [partial(_taken, cut.picks(name))] for name in learning}, places)
        return net


def widen(draft: Draft, fittings: Sequence[Fitting]) -> None:
    """Let a member keep as much of its axes as all alternatives that it runs need."""
    whole = draft.slicing().analysis
    axes = {axis.atom.root(): axis for axis in whole.axes}
    changed = bool(draft.kept)
    while changed:  # every turn keeps more
        slicing, changed = draft.slicing(), False
        for fitting in fittings:
            changed |= fitting.widen(draft, slicing, axes)


def _hold(draft: Draft, axes: Mapping[Dim, Axis], terms: Sequence[Dim]) -> bool:
    """Keep whole what ``terms`` are made of; returns whether it was not."""
    changed = False
    for atom in {atom.root() for term in terms for atom in atoms(term)}:
        axis = axes.get(atom)
        if axis is not None and draft.kept.get(axis.name, axis.size) != axis.size:
            draft.keep(axis.name, axis.size)
            changed = True
    return changed


def _level(draft: Draft, slicing: Slicing, axes: Mapping[Dim, Axis], terms: Sequence[Dim]) -> bool:
    """Let terms that the alternative makes one be cut alike; returns whether they were not."""
    roots = list(dict.fromkeys(term.root() for term in terms))
    picks = [slicing.pick(root) for root in roots]
    if len(roots) == 1 or all(_same(picks[0], pick) for pick in picks[1:]):
        return False
    mine = [axes.get(root) for root in roots]
    kept = [draft.kept.get(axis.name, axis.size) if axis is not None else None for axis in mine]
    if not all(isinstance(units, int) for units in kept):
        return _hold(draft, axes, roots)
    most = max(units for units in kept if isinstance(units, int))
    for axis in mine:
        if axis is not None:
            draft.keep(axis.name, most)
    return True


def _same(a: Pick, b: Pick) -> bool:
    if isinstance(a, np.ndarray) and isinstance(b, np.ndarray):
        return np.array_equal(a, b)
    return not isinstance(a, np.ndarray) and not isinstance(b, np.ndarray) and a == b


def _units(pick: Pick) -> int | list[int]:
    if isinstance(pick, slice):
        return pick.stop if pick.start == 0 else list(range(pick.start, pick.stop))
    return [int(place) for place in pick] if pick is not None else []


def _taken(picks: tuple[Pick, ...], weight: Tensor) -> Tensor:
    return take(weight, picks)


def _sides(trace: Tracer) -> tuple[Dims, Dims] | None:
    """Return the terms of what an alternative takes and gives."""
    inputs = [
        trace.dims[node]
        for node in trace.capture.graph.find_nodes(op="placeholder")
        if trace.capture.inputs[str(node.target)].kind.name == "USER_INPUT" and trace.dims[node] is not None
    ]
    output = next(iter(trace.capture.graph.find_nodes(op="output")))
    results = [trace.dims.get(node) for node in output.all_input_nodes]
    if len(inputs) != 1 or len(results) != 1:
        return None
    given, result = inputs[0], results[0]
    known = all(row is not None and all(isinstance(dim, Dim) for dim in row) for row in (given, result))
    return (list(given), list(result)) if known else None  # type: ignore[arg-type]
