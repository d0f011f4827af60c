"""What the integers of a network's code mean: which attribute is which size, and which calls no attribute can correct.

A smaller network must have certain sizes in the arguments of its operations; the captured graph says which. The probe
says of what those arguments were computed. Sizes of the axes are made unlike each other (numbers that no network has),
so that an attribute is taken for a term only where every use of it agrees. Attributes that no call showed are guessed
by their values and names, which does no harm: they feed no operation.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from itertools import accumulate
from weakref import WeakKeyDictionary

from torch import nn
from torch.fx import Node

from .analysis import Analysis
from .calls import node_integers
from .dims import Dim, atoms
from .names import Sizes, guess, sizes_by_module
from .probe import Probe, Use, probe
from .rules import SIZES
from .symbolic import Attribute, Expr, attributes_in, evaluate
from .torch_layers import is_torch_layer
from .trace import Call, Tracer, signature

Size = Callable[[Dim], int]
Vector = tuple[int, ...]
_SPLITS = {"split", "chunk", "split_with_sizes", "tensor_split", "unsafe_split", "unsafe_chunk"}
_BY_SIZE = {"split", "unsafe_split"}
_DRAWS = 3


class Virtual:
    """Sizes that no network has, one per axis: two terms with the same ones are the same term."""

    def __init__(self, analysis: Analysis) -> None:
        rng = random.Random(1)
        count = len(analysis.axes)
        drawn = [rng.sample(range(1009, 1049 + 40 * count), count) for _ in range(_DRAWS)]
        self._sizes = [
            {id(axis.atom.root()): number for axis, number in zip(analysis.axes, row, strict=True)} for row in drawn
        ]
        self._memo: list[dict[int, int]] = [{} for _ in drawn]

    def sizes(self) -> list[Size]:
        """Return one function from a term to its size per draw."""
        return [lambda dim, k=k: self._size(dim, k) for k in range(_DRAWS)]  # type: ignore[misc]

    def _size(self, dim: Dim, k: int) -> int:
        dim = dim.root()
        found = self._memo[k].get(id(dim))
        if found is None:
            if dim.kind == "atom":
                found = self._sizes[k].get(id(dim), dim.size)
            elif dim.kind == "product":
                found = 1
                for part in dim.parts:
                    found *= self._size(part, k)
            else:
                found = sum(self._size(part, k) for part in dim.parts)
            self._memo[k][id(dim)] = found
        return found

    def vector(self, dim: Dim) -> Vector:
        """Return the sizes of a term."""
        return tuple(self._size(dim, k) for k in range(_DRAWS))


def wanted(trace: Tracer, node: Node, size: Size) -> list[int] | None:
    """Return the integers that an operation's arguments need for other sizes, in order; None where no rule says it.

    A split returns the sizes of all its parts; one that was given the places to split at returns these.
    """
    name = signature(node.target)[0]
    rule = SIZES.get(name)
    if rule is None or node in trace.opaque:
        return None
    changes = dict(rule(trace, Call(node), size))
    target = changes.pop("target", node.target)
    if name in _SPLITS:
        sizes = list(changes["args"][1]) if "args" in changes else None
        if sizes is not None and name == "tensor_split" and isinstance(node.args[1], (list, tuple)):
            return list(accumulate(sizes))[:-1]
        return sizes
    if "args" in changes:
        found = node_integers(changes["args"])
    else:
        names = [argument for argument, _ in signature(target)[1]]
        given, words = list(node.args), dict(node.kwargs)
        for argument, value in changes.items():
            at = names.index(argument)
            if argument in words or at >= len(given):
                words[argument] = value
            else:
                given[at] = value
        found = node_integers((given, words))
    # Where the rule writes the call in another way, its integers cannot be told apart.
    return found if len(found) == len(node_integers((node.args, node.kwargs))) else None


@dataclass(frozen=True)
class Formula:
    """The size that something must have: a term's, or the ``place``-th integer of an operation's arguments."""

    dim: Dim | None = None
    node: Node | None = None
    place: int = 0

    def value(self, trace: Tracer, size: Size) -> int | None:
        """Compute it."""
        if self.dim is not None:
            return size(self.dim)
        assert self.node is not None
        found = wanted(trace, self.node, size)
        return found[self.place] if found is not None and self.place < len(found) else None


@dataclass(frozen=True)
class Misfit:
    """An integer of a call that no patched attribute gives the right value: it has to be written there."""

    use: Use
    place: int
    splits: bool = False

    def split_argument(self, sizes: list[int]) -> int:
        """Return the one integer that splits into parts of these sizes, -1 where there is none."""
        if len(set(sizes)) > 1:
            return -1
        return sizes[0] if signature(self.use.node.target)[0] in _BY_SIZE else len(sizes)

    def dim(self, trace: Tracer) -> int:
        """Return the dimension that is split."""
        call = Call(self.use.node)
        return int(call["dim"]) % len(trace.of(call.first))


@dataclass
class Meaning:
    """The result: a formula per attribute, and the calls that no attribute corrects."""

    attributes: dict[Attribute, Formula] = field(default_factory=dict)
    values: dict[Attribute, int] = field(default_factory=dict)
    uses: list[Use] = field(default_factory=list)
    misfits: list[Misfit] = field(default_factory=list)


@dataclass(frozen=True)
class _Demand:
    use: Use | None  # None: something that was compared
    place: int
    expr: Expr
    vector: Vector
    splits: bool = False

    @property
    def node(self) -> Node | None:
        """The operation."""
        return self.use.node if self.use is not None else None


class Solver:
    """Finds the meaning of every attribute of one network."""

    def __init__(self, model: nn.Module, analysis: Analysis, found: Probe) -> None:
        self.model, self.analysis, self.found = model, analysis, found
        self.trace = analysis.trace
        self.virtual = Virtual(analysis)
        self.sizes = self.virtual.sizes()
        self.vectors: dict[Attribute, Vector] = {}
        self.formulas: dict[Attribute, Formula] = {}
        self._layers()

    def _layers(self) -> None:
        """Attributes of torch's own layers that their weights tell."""
        aliases = self.analysis.capture.aliases
        for path, module in self.model.named_modules(remove_duplicate=False):
            if not isinstance(module, (nn.Linear, nn.Embedding)) or module.weight is None:
                continue
            full = f"{path}.weight" if path else "weight"
            names = ("out_features", "in_features") if isinstance(module, nn.Linear) else ("", "embedding_dim")
            row = self.trace.parameters.get(aliases.get(full, full), ())
            for name, dim in zip(names, row, strict=False):
                place = Attribute((path, name))
                if self.found.values.get(place) == dim.size:
                    self.vectors[place] = self.virtual.vector(dim)
                    self.formulas[place] = Formula(dim=dim.root())

    @cached_property
    def terms(self) -> dict[tuple[int, Vector], Dim]:
        """Every term of the network by its original size and its sizes."""
        found: dict[tuple[int, Vector], Dim] = {}
        seen: set[int] = set()
        for dim in _all_dims(self.trace):
            if id(dim) not in seen:
                seen.add(id(dim))
                found.setdefault((dim.size, self.virtual.vector(dim)), dim)
        return found

    @cached_property
    def _inside(self) -> tuple[dict[str, Sizes], dict[str, Sizes]]:
        return sizes_by_module(self.analysis)

    def solve(self) -> Meaning:
        """Work everything out."""
        demands = list(self._demands())
        self._plain(demands)
        self._computed(demands)
        self._compared()
        self._guessed()
        return Meaning(self._result(), self.found.values, self.found.uses, self._misfits(demands))

    # ---- what operations demand -----------------------------------------------------------------------------------
    def _demands(self) -> Iterator[_Demand]:
        for use in self.found.uses:
            rows = [wanted(self.trace, use.node, size) for size in self.sizes]
            if any(row is None for row in rows):
                continue
            if signature(use.node.target)[0] in _SPLITS and not _listed(use):
                yield from self._split(use, rows)  # type: ignore[arg-type]
                continue
            for expr, place in zip(use.exprs, use.matched, strict=True):
                if place is not None and expr != -1 and all(place < len(row) for row in rows):  # type: ignore[arg-type]
                    yield _Demand(use, place, expr, tuple(row[place] for row in rows))  # type: ignore[index]

    def _split(self, use: Use, rows: list[list[int]]) -> Iterator[_Demand]:
        """A split into parts of one size (or into a number of parts) can be kept where all parts stay equal."""
        name = signature(use.node.target)[0]
        equal = all(len(set(row)) == 1 for row in rows)
        if name in _BY_SIZE:
            vector = tuple(row[0] for row in rows) if equal else (-1,) * len(rows)
        else:
            vector = tuple(len(row) if equal else -1 for row in rows)
        yield _Demand(use, 0, use.exprs[0], vector, True)

    # ---- from demands to attributes ---------------------------------------------------------------------------------
    def _plain(self, demands: list[_Demand]) -> None:
        """Attributes that are an argument as they are."""
        votes: dict[Attribute, dict[Vector, list[_Demand]]] = {}
        for demand in demands:
            if isinstance(demand.expr, Attribute) and -1 not in demand.vector and demand.expr not in self.vectors:
                votes.setdefault(demand.expr, {}).setdefault(demand.vector, []).append(demand)
        for place, rows in votes.items():
            vector, best = max(rows.items(), key=lambda row: len(row[1]))
            self._take(place, vector, Formula(node=best[0].node, place=best[0].place))

    def _take(self, place: Attribute, vector: Vector, formula: Formula) -> None:
        self.vectors[place] = vector
        term = self.terms.get((self.found.values.get(place, -1), vector))
        self.formulas[place] = Formula(dim=term) if term is not None else formula

    def _computed(self, demands: list[_Demand]) -> None:
        """Attributes that an argument is computed from, one unknown at a time."""
        for _ in range(3):
            before = len(self.vectors)
            open_: dict[Attribute, list[_Demand]] = {}
            for demand in demands:
                unknown = attributes_in(demand.expr) - self.vectors.keys()
                if len(unknown) == 1 and not isinstance(demand.expr, Attribute):
                    open_.setdefault(unknown.pop(), []).append(demand)
            for place, rows in open_.items():
                self._search(place, rows)
            if len(self.vectors) == before:
                return

    def _search(self, place: Attribute, demands: list[_Demand]) -> None:
        value = self.found.values[place]
        best: tuple[int, Vector, Dim | None] | None = None
        for vector, dim in self._candidates(place, value):
            fits = sum(self._holds(demand, place, vector) for demand in demands)
            if fits and (best is None or fits > best[0]):
                best = (fits, vector, dim)
        if best is not None:
            self.vectors[place] = best[1]
            if best[2] is not None:
                self.formulas[place] = Formula(dim=best[2])

    def _candidates(self, place: Attribute, value: int) -> Iterator[tuple[Vector, Dim | None]]:
        own, anywhere = self._inside
        for sizes in (own.get(place[0], {}), anywhere.get(place[0], {})):
            for dim in sizes.get(value, {}).values():
                yield self.virtual.vector(dim), dim
        yield (value,) * _DRAWS, None
        for (size, vector), dim in self.terms.items():
            if size == value:
                yield vector, dim

    def _holds(self, demand: _Demand, place: Attribute | None = None, vector: Vector | None = None) -> bool:
        for k, size in enumerate(self.sizes):
            known: dict[Attribute, int | None] = {}
            for attribute in attributes_in(demand.expr):
                row = vector if attribute == place else self.vectors.get(attribute)
                known[attribute] = row[k] if row is not None else self.found.values[attribute]
            if evaluate(demand.expr, known, size) != demand.vector[k]:
                return False
        return True

    def _compared(self) -> None:
        """Attributes that were only compared with something whose meaning is known."""
        for left, right in self.found.equal:
            for one, other in ((left, right), (right, left)):
                unknown = attributes_in(one) - self.vectors.keys()
                if len(unknown) != 1 or attributes_in(other) - self.vectors.keys():
                    continue
                known = [{x: self.vectors[x][k] for x in attributes_in(other)} for k in range(_DRAWS)]
                row = [evaluate(other, known[k], size) for k, size in enumerate(self.sizes)]
                vector = tuple(number for number in row if number is not None)
                if len(vector) == _DRAWS:
                    self._search(unknown.pop(), [_Demand(None, 0, one, vector)])

    def _guessed(self) -> None:
        own, anywhere = self._inside
        kinds = {id(axis.atom.root()): axis.kind for axis in self.analysis.axes}
        layers = {p for p, m in self.model.named_modules(remove_duplicate=False) if is_torch_layer(m)}
        for place, value in self.found.values.items():
            path, name, *way = place
            if path in layers:
                continue
            if place in self.vectors or len(way) > 1 or (way and way[0][0] != "item") or name.startswith("_"):
                continue
            dim = guess(name, value, own.get(path, {}), anywhere.get(path, {}), kinds)
            if dim is not None:
                self.formulas[place] = Formula(dim=dim)
                self.vectors[place] = self.virtual.vector(dim)

    # ---- what comes out ---------------------------------------------------------------------------------------------
    def _result(self) -> dict[Attribute, Formula]:
        free = {id(axis.atom.root()) for axis in self.analysis.axes}
        return {
            place: formula
            for place, formula in self.formulas.items()
            if formula.dim is None or any(id(atom) in free for atom in atoms(formula.dim))
        }

    def _misfits(self, demands: list[_Demand]) -> list[Misfit]:
        found = []
        for demand in demands:
            if demand.use is not None and not self._holds(demand):
                found.append(Misfit(demand.use, demand.place, demand.splits))
        found += [Misfit(use, 0) for use in self.found.uses if use.scale is not None and not self._scales(use)]
        return found

    def _scales(self, use: Use) -> bool:
        """Tell whether a factor such as ``width ** -0.5`` still is that of the width of what it scales."""
        assert use.scale is not None
        base, values = use.scale.base, self.found.values
        known = [{a: self.vectors.get(a, (values[a],) * _DRAWS)[k] for a in attributes_in(base)} for k in range(_DRAWS)]
        row = tuple(evaluate(base, known[k], size) for k, size in enumerate(self.sizes))
        first = use.node.args[0]
        near = [first, *first.all_input_nodes] if isinstance(first, Node) else []
        dims = [dims[-1] for n in near if (dims := self.trace.dims.get(n)) and isinstance(dims[-1], Dim)]
        full = round(float(use.scale) ** (1 / use.scale.power))
        return any(row == self.virtual.vector(dim) for dim in dims) or row == (full,) * _DRAWS


_KNOWN: WeakKeyDictionary[nn.Module, tuple[Tracer, Meaning]] = WeakKeyDictionary()


def meaning_of(model: nn.Module, analysis: Analysis) -> Meaning:
    """Return the meaning of a network's integers; it is worked out once per network and analysis."""
    known = _KNOWN.get(model)
    if known is None or known[0] is not analysis.trace:
        known = _KNOWN[model] = (analysis.trace, Solver(model, analysis, probe(model, analysis)).solve())
    return known[1]


def _listed(use: Use) -> bool:
    """Tell whether a split was given the sizes of its parts."""
    return isinstance(use.node.args[1], (list, tuple)) if len(use.node.args) > 1 else False


def _all_dims(trace: Tracer) -> Iterator[Dim]:
    for dims in trace.parameters.values():
        yield from (dim.root() for dim in dims)
    for rows in trace.dims.values():
        for row in [rows] if rows and isinstance(rows[0], Dim) else rows or ():
            yield from (dim.root() for dim in row or ())
