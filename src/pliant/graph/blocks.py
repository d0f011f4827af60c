"""Finding the blocks that can be left out: modules whose output is their input plus something.

A module is a candidate if walking back from its result through additions, normalisations and unary operations reaches
its input with the same axes. Containers of blocks are opened, halves of a block are not blocks of their own. Where the
code of no module but the whole network's holds an addition, the branch that is added is a block.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from torch import nn
from torch.fx import Node

from .branches import ADD, THROUGH, branch_of, operation
from .dims import Dim, Reason
from .nouns import Block, Fixed
from .trace import Tracer, is_tensor, module_path


@dataclass
class _Candidate:
    path: str
    before: Node
    after: Node
    region: list[Node]
    adds: set[Node]
    branch: bool = False


def find_blocks(trace: Tracer, model: nn.Module) -> tuple[tuple[Block, ...], tuple[Fixed, ...]]:
    """Return the blocks in the order of execution, and the residual modules that cannot be left out, and why."""
    regions = _regions(trace)
    order = {node: i for i, node in enumerate(trace.capture.graph.nodes)}
    found: dict[str, _Candidate] = {}
    fixed: list[Fixed] = []
    for path, region in regions.items():
        call = trace.capture.calls.get(path)
        if not path or call is None:
            continue
        candidate = _candidate(trace, path, region)
        if isinstance(candidate, Reason):
            fixed.append(Fixed(path, 1, candidate))
        elif candidate is not None and call.calls > 1:
            fixed.append(Fixed(path, 1, Reason("shared", "the block is used more than once")))
        elif candidate is not None and (call.interface is None):
            fixed.append(Fixed(path, 1, Reason("interface", "its result cannot be told apart from its other results")))
        elif candidate is not None:
            found[path] = candidate
    kinds = {path: type(module).__name__ for path, module in model.named_modules()}
    chosen = _choose(found, kinds)
    chosen |= _branches(trace, regions, chosen)
    inside = tuple(f"{path}." for path in chosen)
    kept = tuple(f for f in fixed if not f.what.startswith(inside)) if inside else tuple(fixed)
    return _rows(trace, sorted(chosen.values(), key=lambda c: order[c.after])), kept


def _regions(trace: Tracer) -> dict[str, list[Node]]:
    regions: dict[str, list[Node]] = {}
    for node in trace.capture.graph.nodes:
        path = module_path(node) if node.op == "call_function" else ""
        while path:
            regions.setdefault(path, []).append(node)
            path = path.rpartition(".")[0]
    return regions


def _candidate(trace: Tracer, path: str, region: list[Node]) -> _Candidate | Reason | None:
    inside = set(region)
    exits = [n for n in region if any(user not in inside for user in n.users)]
    for after in reversed(exits):
        if not is_tensor(after):
            continue
        before = _residual_source(trace, after, inside)
        if before is None:
            continue
        if any(n is not after for n in exits):
            return Reason("interface", "other results of this block are used elsewhere")
        if _enters_twice(before, inside):
            return None
        adds = {n for n in region if operation(n) in ADD}
        return _Candidate(path, before, after, region, adds)
    return None


def _enters_twice(before: Node, inside: set[Node]) -> bool:
    """Tell whether something that was computed from ``before`` outside also enters: then this is a block's half."""
    entries = {n for node in inside for n in node.all_input_nodes if n not in inside and n is not before}
    seen: set[Node] = set()
    todo = [n for n in entries if n.op == "call_function"]
    while todo:
        node = todo.pop()
        if node is before:
            return True
        if node not in seen:
            seen.add(node)
            todo.extend(n for n in node.all_input_nodes if n.op == "call_function")
    return False


def _residual_source(trace: Tracer, after: Node, inside: set[Node]) -> Node | None:
    """Walk back from ``after`` along the residual path to the node outside the region where it begins."""
    todo: list[tuple[Node, bool]] = [(after, False)]
    seen: set[Node] = set()
    while todo:
        node, added = todo.pop()
        if node not in inside:
            if added and _same_terms(trace, node, after):
                return node
            continue
        if node in seen or not hasattr(node.target, "_schema"):
            continue
        seen.add(node)
        name = operation(node)
        if name in ADD:
            todo.extend((a, True) for a in node.args if is_tensor(a))  # type: ignore[misc]
        elif name in THROUGH and is_tensor(node.args[0]):
            todo.append((node.args[0], added))  # type: ignore[arg-type]
    return None


def _same_terms(trace: Tracer, a: Node, b: Node) -> bool:
    left, right = trace.dims.get(a), trace.dims.get(b)
    if not left or not right or len(left) != len(right) or (a.op == "placeholder" and a.name in _tensors(trace)):
        return False
    return all(_same(x, y) for x, y in zip(left, right, strict=True))


def _same(x: Dim, y: Dim) -> bool:
    x, y = x.root(), y.root()
    if x is y:
        return True
    if x.kind == y.kind == "atom":
        return x.size == y.size and x.reason is not None and y.reason is not None
    if x.size != y.size or x.kind != y.kind or len(x.parts) != len(y.parts):
        return False
    return all(_same(p, q) for p, q in zip(x.parts, y.parts, strict=True))


def _tensors(trace: Tracer) -> set[str]:
    return {node.name for node in trace.nodes.values()}


def _choose(found: Mapping[str, _Candidate], kinds: Mapping[str, str]) -> dict[str, _Candidate]:
    """Keep the largest candidates that are more than containers of other candidates."""
    solid = {path: c for path, c in found.items() if not _container(path, found, kinds)}
    return {path: c for path, c in solid.items() if not any(path.startswith(f"{other}.") for other in solid)}


def _branches(
    trace: Tracer, regions: Mapping[str, list[Node]], chosen: Mapping[str, _Candidate]
) -> dict[str, _Candidate]:
    """Return the largest modules beside the ``chosen`` ones whose result is added to what they start from."""
    found: dict[str, _Candidate] = {}
    for path in sorted(regions, key=lambda path: path.count(".")):
        call = trace.capture.calls.get(path)
        holds = any(other.startswith(f"{path}.") for other in chosen)
        held = any(path == other or path.startswith(f"{other}.") for other in (*chosen, *found))
        if not path or holds or held or call is None or call.calls > 1 or call.interface is None:
            continue
        branch = branch_of(regions[path], lambda a, b: _same_terms(trace, a, b))
        if branch is not None:
            before, after, between = branch
            region = [*regions[path], *between, after]
            found[path] = _Candidate(path, before, after, region, {after}, branch=True)
    return found


def _container(path: str, found: Mapping[str, _Candidate], kinds: Mapping[str, str]) -> bool:
    inner = [c for other, c in found.items() if other.startswith(f"{path}.")]
    if not inner:
        return False
    names = [kinds.get(c.path, "") for c in inner]
    if found[path].adds <= set().union(*(c.adds for c in inner)):
        return True
    return any(names.count(name) > 1 for name in names)


def _rows(trace: Tracer, ordered: list[_Candidate]) -> tuple[Block, ...]:
    """Group consecutive blocks of one container and the same axes into a run: what `depth` counts.

    Branches of two lists that take turns (attentions and MLPs) are two runs, each of all that its list holds.
    """
    blocks: list[Block] = []
    runs: list[tuple[str, Node, str]] = []
    taken: dict[str, int] = {}
    for c in ordered:
        parent = c.path.rpartition(".")[0]
        while c.branch and parent not in trace.capture.calls and parent.rpartition(".")[2].isdecimal():
            parent = parent.rpartition(".")[0]  # lists of lists of branches are one row
        near = runs if c.branch else runs[-1:]
        run = next((row[2] for row in near[::-1] if row[0] == parent and _same_terms(trace, row[1], c.after)), None)
        if run is None:
            taken[parent] = taken.get(parent, 0) + 1
            run = parent if taken[parent] == 1 else f"{parent}#{taken[parent]}"
        runs.append((parent, c.after, run))
        call = trace.capture.calls[c.path]
        assert call.interface is not None
        interface = replace(call.interface, branch=c.branch)
        blocks.append(Block(c.path, c.path, run, interface, c.before, c.after, tuple(c.region)))
    return tuple(blocks)
