"""The picture of a network: its parts as a tree, what bends in each, what moves together, what is fixed and why."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from torch import nn

from ..graph.analysis import Analysis
from ..graph.nouns import Axis
from ..graph.slicing import Slicing
from .figures import reason
from .fold import fold, folded_names


@dataclass(frozen=True)
class Part:
    """A module of the tree; repeated equal siblings are one part, whose name holds a range.

    ``bends`` lists the axes that live here as ``(kind, size)``; ``parameters`` counts all repeats together.
    """

    name: str
    kind: str
    repeats: int
    parameters: int
    bends: tuple[tuple[str, int], ...] = ()
    block: bool = False
    children: tuple[Part, ...] = ()

    @property
    def signature(self) -> tuple[object, ...]:
        """What two siblings must have in common to be told as one."""
        inner = tuple((child.name, child.signature) for child in self.children)
        return (self.kind, self.parameters, self.repeats, self.bends, self.block, inner)

    def share(self, whole: int) -> str:
        """Return its share of ``whole`` parameters in per cent, as text."""
        percent = 100 * self.parameters / max(1, whole)
        return f"{percent:.1f} %" if percent >= 0.05 or not self.parameters else "< 0.1 %"

    def walk(self, depth: int = 0) -> Iterator[tuple[int, Part]]:
        """Yield this part and all inside it with their depth."""
        yield depth, self
        for child in self.children:
            yield from child.walk(depth + 1)


@dataclass(frozen=True)
class AxisRow:
    """Equal axes of repeated parts: their name, how many they are, and the tensors that each cuts, folded."""

    name: str
    count: int
    kind: str
    size: int
    tensors: tuple[str, ...]
    share: float


@dataclass(frozen=True)
class FixedRow:
    """What is kept for one reason: the reason, how many, and the first tensor of each with its size, folded."""

    why: str
    count: int
    names: tuple[str, ...]


@dataclass(frozen=True)
class Totals:
    """Numbers of the whole network; ``half`` is the share of parameters left when every axis is cut to half."""

    parameters: int
    axes: int
    blocks: int
    fixed: int
    half: float
    capture_seconds: float
    analysis_seconds: float


@dataclass(frozen=True)
class Picture:
    """All that is shown of an analysis."""

    title: str
    root: Part
    axes: tuple[AxisRow, ...]
    blocks: tuple[str, ...]
    fixed: tuple[FixedRow, ...]
    totals: Totals
    notes: tuple[str, ...] = field(default=())


def picture(model: nn.Module, analysis: Analysis, title: str) -> Picture:
    """Arrange an analysis of ``model`` to be shown; ``title`` is what the user called it."""
    sizes = {name: parameter.numel() for name, parameter in model.named_parameters()}
    total = sum(sizes.values())
    seconds = analysis.seconds
    totals = Totals(
        total,
        len(analysis.axes),
        len(analysis.blocks),
        len(analysis.fixed),
        _share_at_half(analysis, sizes),
        seconds.get("capture", 0.0),
        seconds.get("analysis", 0.0),
    )
    return Picture(
        title,
        _tree(model, analysis),
        tuple(_axis_rows(analysis, sizes, total)),
        tuple(folded_names(block.name for block in analysis.blocks)),
        tuple(_fixed_rows(analysis)),
        totals,
        tuple(_notes(analysis)),
    )


def _notes(analysis: Analysis) -> Iterator[str]:
    scope = analysis.capture.scope
    if scope.only:
        yield f"only {scope.only} was analysed; the rest of the model stays as it is"
    if scope.mode != "export":
        yield f"captured by {scope.mode}, as the usual way failed"
    if analysis.trace.unknown:
        listed = ", ".join(f"{name} ({count})" for name, count in analysis.trace.unknown.items())
        yield f"operations without a rule: {listed}"


def _share_at_half(analysis: Analysis, sizes: dict[str, int]) -> float:
    slicing = Slicing(analysis, {axis.name: max(1, axis.size // 2) for axis in analysis.axes})
    left = total = 0
    for name, count in sizes.items():
        dims = analysis.trace.parameters.get(analysis.capture.aliases.get(name, name))
        new = 1
        for dim in dims or ():
            new *= slicing.size(dim)
        left += new if dims is not None else count
        total += count
    return left / total if total else 1.0


def home(axis: Axis) -> str:
    """Return the path of the module that an axis is named after."""
    return axis.name.rpartition(".")[0]


def _tree(model: nn.Module, analysis: Analysis) -> Part:
    bends: dict[str, list[tuple[str, int]]] = {}
    for axis in analysis.axes:
        bends.setdefault(home(axis), []).append((axis.kind, axis.size))
    blocks = {block.module for block in analysis.blocks}
    shown = {""}
    for path in (*bends, *blocks):
        while path:
            shown.add(path)
            path = path.rpartition(".")[0]
    seen: set[int] = set()

    def build(path: str, name: str, module: nn.Module) -> Part:
        own = [p for p in module._parameters.values() if p is not None and id(p) not in seen]
        seen.update(id(p) for p in own)
        count = sum(p.numel() for p in own)
        children, hidden = [], 0
        for key, child in module.named_children():
            inner = f"{path}.{key}" if path else key
            part = build(inner, key, child)
            hidden += part.parameters
            if inner in shown or (not path and part.parameters):
                children.append(part)
        return Part(
            name, type(module).__name__, 1, count + hidden, tuple(bends.get(path, ())), path in blocks,
            tuple(_joined(_folded(children))),
        )  # fmt: skip

    return build("", "", model)


def _folded(parts: list[Part]) -> list[Part]:
    """Tell equal siblings whose names are numbers as one."""
    out = []
    for row in fold((part.name, part.signature) for part in parts):
        first = parts[row.items[0]]
        out.append(replace(_times(first, len(row.items)), name=row.name, repeats=len(row.items)))
    return out


def _times(part: Part, repeats: int) -> Part:
    """Count the parameters of ``part``, and of all inside it, for its repeats together."""
    if repeats == 1:
        return part
    inner = tuple(_times(child, repeats) for child in part.children)
    return replace(part, parameters=part.parameters * repeats, children=inner)


def _joined(parts: list[Part]) -> Iterator[Part]:
    """Write a part that only holds one other as a path: ``blocks`` with ``0-11`` in it is ``blocks.0-11``."""
    for part in parts:
        while len(part.children) == 1 and not part.bends and not part.block and part.repeats == 1:
            (child,) = part.children
            if child.parameters != part.parameters:
                break
            part = replace(child, name=f"{part.name}.{child.name}")
        yield part


def _axis_rows(analysis: Analysis, sizes: dict[str, int], total: int) -> Iterator[AxisRow]:
    def pattern(name: str) -> str:
        return ".".join("*" if p.isdecimal() else p for p in name.split("."))

    axes = analysis.axes
    rows = fold((a.name, (a.kind, a.size, tuple(sorted(pattern(t.tensor) for t in a.touches)))) for a in axes)
    for row in rows:
        first = axes[row.items[0]]
        touched = [f"{t.tensor}[{t.dim}]" for i in row.items for t in axes[i].touches]
        reached = sum(sizes.get(name, 0) for name in {n for i in row.items for n in axes[i].parameters})
        names = tuple(folded_names(dict.fromkeys(touched)))
        yield AxisRow(row.name, len(row.items), first.kind, first.size, names, reached / total if total else 0.0)


def _fixed_rows(analysis: Analysis) -> Iterator[FixedRow]:
    groups: dict[str, list[str]] = {}
    for item in analysis.fixed:
        groups.setdefault(reason(str(item.reason))[0], []).append(f"{item.what.partition(', ')[0]} ({item.size})")
    for why, names in sorted(groups.items(), key=lambda group: -len(group[1])):
        yield FixedRow(why, len(names), tuple(folded_names(names)))
