"""Running the user's network once with integers that remember where they came from.

Every integer in a module's attributes and every size that the code reads from a tensor is replaced by one that carries
its expression. The torch functions that the code then calls show which of them end as which size argument: what a
smaller network must have there is known from the captured graph.
"""

from __future__ import annotations

import contextlib
import math
import operator
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import Node
from torch.overrides import TorchFunctionMode

from .analysis import Analysis
from .attributes import attributes_of, rewritten
from .calls import Location, integers, location, node_integers, with_integers
from .clone import clone_tree
from .dims import Dim, atoms
from .prepare import leaving_no_trace, own_copies
from .symbolic import Attribute, Expr, Scale, Sized, expression
from .trace import module_path

_SHAPES = (Tensor.shape.__get__, Tensor.size, Tensor.numel, torch.numel)  # type: ignore[attr-defined]


@dataclass(frozen=True)
class Use:
    """A call of the user's code: the operation that it became, where it stands, and its integers as expressions.

    With each integer goes its place among the integers of the operation's own arguments; ``turn`` counts how often the
    module had been called. ``scale`` is the factor of a product that is a power of a size.
    """

    node: Node
    module: str
    turn: int
    name: str
    location: Location | None
    integers: tuple[tuple[Expr, int | None], ...]
    scale: Scale | None = None

    @property
    def exprs(self) -> tuple[Expr, ...]:
        """The expression of each integer."""
        return tuple(expr for expr, _ in self.integers)

    @property
    def matched(self) -> tuple[int | None, ...]:
        """The place of each integer among those of the operation, None where it is not known."""
        return tuple(place for _, place in self.integers)


@dataclass
class Probe:
    """What one run showed: the calls with sizes in them, the comparisons that held, and the attributes looked at."""

    uses: list[Use] = field(default_factory=list)
    equal: list[tuple[Expr, Expr]] = field(default_factory=list)
    values: dict[Attribute, int] = field(default_factory=dict)


def probe(model: nn.Module, analysis: Analysis) -> Probe:
    """Run ``model`` on the example with integers that remember; an empty result where that is not possible."""
    found = Probe()
    if any(t.is_meta for t in (*model.parameters(), *model.buffers())):
        return found
    net = clone_tree(model).eval()
    _mark(net, found)
    mode = _Recorder(net, analysis, found)
    capture = analysis.capture
    run = net.get_submodule(capture.scope.only) if capture.scope.only else net
    args, kwargs = own_copies(*(capture.scope.example if capture.scope.only else (capture.args, capture.kwargs)))
    handles = mode.watch(net)
    try:
        # The user's code may not like such integers: what was seen until it failed is used.
        with torch.no_grad(), leaving_no_trace(model), _as_when_captured(), mode, contextlib.suppress(Exception):
            run(*args, **kwargs)
    finally:
        for handle in handles:
            handle.remove()
    return found


@contextlib.contextmanager
def _as_when_captured() -> Iterator[None]:
    """Let code that asks whether it is being captured go the way that the graph shows."""
    fast = torch.backends.mha.get_fastpath_enabled()
    flags = ("_is_compiling_flag", "_is_exporting_flag")
    before = {flag: getattr(torch.compiler, flag) for flag in flags if hasattr(torch.compiler, flag)}
    torch.backends.mha.set_fastpath_enabled(False)
    for flag in before:
        setattr(torch.compiler, flag, True)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
        for flag, value in before.items():
            setattr(torch.compiler, flag, value)


def bends(dim: Dim, axes: set[int]) -> bool:
    """Tell whether an axis is in a term."""
    return any(id(atom) in axes for atom in atoms(dim))


def _mark(net: nn.Module, found: Probe) -> None:
    def notice(left: Expr, right: Expr) -> None:
        found.equal.append((left, right))

    def change(place: Attribute, value: int) -> int:
        found.values[place] = value
        return Sized(value, place, notice)

    for path, module in net.named_modules():
        for name, value in list(attributes_of(path, module)):
            with contextlib.suppress(Exception):  # an object that cannot be copied keeps its integers
                new = rewritten(value, Attribute((path, name)), change)
                if new is not value:
                    module.__dict__[name] = new


class _Recorder(TorchFunctionMode):
    def __init__(self, net: nn.Module, analysis: Analysis, found: Probe) -> None:
        super().__init__()
        self.trace, self.found = analysis.trace, found
        self.axes = {id(axis.atom.root()) for axis in analysis.axes}
        self.path: list[str] = [""]
        self.turns: dict[str, int] = {}
        self.counts: dict[Any, int] = {}
        self.shift: dict[Any, int] = {}
        self.groups = _groups(analysis)
        self.used: set[Node] = set()
        aliases = analysis.capture.aliases
        both = [*net.named_parameters(), *net.named_buffers()]
        self.tensors = {id(t): self.trace.parameters.get(aliases.get(name, name)) for name, t in both}

    def watch(self, net: nn.Module) -> list[Any]:
        """Follow which module runs."""
        handles = []

        def enter(path: str) -> None:
            self.path.append(path)
            self.turns[path] = self.turns.get(path, 0) + 1

        def leave(*given: Any) -> None:
            self.path.pop()

        for path, module in net.named_modules():
            handles.append(module.register_forward_pre_hook(lambda m, a, path=path: enter(path)))
            handles.append(module.register_forward_hook(leave))
        return handles

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        exprs = [expression(value) for value in integers((args, kwargs))]
        if exprs:
            (args, kwargs), _ = with_integers((args, kwargs), {})
        count = self.counts[func] = self.counts.get(func, 0) + 1
        out = func(*args, **kwargs)
        if func in _SHAPES and args and isinstance(args[0], Tensor):
            return self._sized(func, args, kwargs, out)
        nodes = self._nodes(func, name, count, out)
        if nodes:
            self._label(nodes, out)
            if exprs:
                self._note(nodes, name, exprs, args, kwargs)
            scale = next((arg for arg in args if isinstance(arg, Scale)), None)
            if scale is not None:
                path = self.path[-1]
                self.found.uses.append(Use(nodes[-1], path, self.turns.get(path, 1), name, location(), (), scale))
        return out

    # ---- which operation of the graph a call is -------------------------------------------------------------------
    def _nodes(self, func: Any, name: str, count: int, out: Any) -> list[Node]:
        kind = f"{type(func).__name__}.{name}"
        shift = self.shift.get(func, 0)
        for other in (shift, shift + 1, shift - 1, shift + 2, shift - 2, shift + 3, shift - 3):
            for nodes in self.groups.get((f"{name}_{count + other}", kind), ()):
                last = nodes[-1]
                if last in self.used or module_path(last) != self.path[-1]:
                    continue
                if _same_shape(last.meta.get("val"), out):
                    self.shift[func] = other
                    self.used.add(last)
                    return nodes
        return []

    def _label(self, nodes: list[Node], out: Any) -> None:
        dims = self.trace.dims.get(nodes[-1])
        if isinstance(out, Tensor):
            if dims and isinstance(dims[0], Dim):
                out._pliant_dims = dims  # type: ignore[attr-defined]
        elif isinstance(out, (tuple, list)) and dims and len(dims) == len(out):
            for part, row in zip(out, dims, strict=True):
                if isinstance(part, Tensor) and row and isinstance(row, list):
                    part._pliant_dims = row  # type: ignore[attr-defined]

    def _sized(self, func: Any, args: Any, kwargs: Any, out: Any) -> Any:
        dims = getattr(args[0], "_pliant_dims", None) or self.tensors.get(id(args[0]))
        if not dims or len(dims) != args[0].dim():
            return out
        sizes = [
            Sized(int(s), d.root(), self.found_equal) if bends(d, self.axes) else int(s)
            for s, d in zip(args[0].shape, dims, strict=True)
        ]
        if func not in _SHAPES[:2]:
            return math.prod(sizes)
        if isinstance(out, int):
            at = args[1] if len(args) > 1 else kwargs.get("dim", 0)
            return sizes[at]
        return torch.Size(sizes)

    def found_equal(self, left: Expr, right: Expr) -> None:
        """Remember that two sizes were compared and found equal."""
        self.found.equal.append((left, right))

    def _note(self, nodes: list[Node], name: str, exprs: list[Expr], args: Any, kwargs: Any) -> None:
        here, path = location(2), self.path[-1]
        turn = self.turns.get(path, 1)
        plain = list(integers((args, kwargs)))
        if len(nodes) == 1:
            theirs = node_integers((nodes[0].args, nodes[0].kwargs))
            places = _matched(plain, exprs, theirs)
            self.found.uses.append(Use(nodes[0], path, turn, name, here, tuple(zip(exprs, places, strict=True))))
            return
        for node in nodes:  # an index with several slices: each is an operation of its own
            theirs = node_integers((node.args, node.kwargs))
            if getattr(node.target, "_opname", "") == "slice":
                one = _matched(plain, exprs, theirs, after=1)
                self.found.uses.append(Use(node, path, turn, name, here, tuple(zip(exprs, one, strict=True))))


def _groups(analysis: Analysis) -> dict[tuple[str, str], list[list[Node]]]:
    """Return the operations of each call: by the function's name and count, runs that one line of code made.

    Functions of one name are counted apart but named alike, so there may be several runs.
    """
    found: dict[tuple[str, str], list[list[Node]]] = {}
    before: tuple[Any, ...] = ()
    for node in analysis.capture.graph.nodes:
        key = node.meta.get("torch_fn")
        if key is None or node.target is operator.getitem or not hasattr(node.target, "_schema"):
            continue
        here = (tuple(key), node.meta.get("stack_trace"), module_path(node))
        rows = found.setdefault(tuple(key), [])
        if here == before and not _several(node.meta.get("val")):
            rows[-1].append(node)
        else:
            rows.append([node])
        before = here
    return found


def _several(value: Any) -> bool:
    return isinstance(value, (tuple, list))


def _matched(plain: list[int], exprs: list[Expr], theirs: list[int], after: int = 0) -> tuple[int | None, ...]:
    if plain == theirs[: len(plain)] and not after:
        return tuple(range(len(plain)))
    found: list[int | None] = []
    for value, expr in zip(plain, exprs, strict=True):
        same = [i for i, other in enumerate(theirs) if other == value and i >= after]
        twice = any(v == value and e != expr for v, e in zip(plain, exprs, strict=True))
        found.append(same[0] if len(same) == 1 and not twice else None)
    return tuple(found)


def _same_shape(value: Any, out: Any) -> bool:
    if isinstance(value, Tensor) and isinstance(out, Tensor):
        return tuple(value.shape) == tuple(out.shape)
    return isinstance(value, (tuple, list)) and isinstance(out, (tuple, list)) and len(value) == len(out)
