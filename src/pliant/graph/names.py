"""Guessing by names and values which size an attribute means, where no call of the code showed it."""

from __future__ import annotations

from collections.abc import Mapping

from .analysis import Analysis
from .dims import Dim, atoms
from .rules import SIZES
from .trace import module_path, signature

Sizes = dict[int, dict[int, Dim]]  # size -> id of the term -> term, in order of last occurrence


def sizes_by_module(analysis: Analysis) -> tuple[dict[str, Sizes], dict[str, Sizes]]:
    """Collect per module the terms that its own size arguments mean, and all terms that occur inside it."""
    own: dict[str, Sizes] = {}
    everywhere: dict[str, Sizes] = {}
    trace = analysis.trace
    for node, dims in trace.dims.items():
        if node.op != "call_function" or not dims:
            continue
        rows = [dims] if isinstance(dims[0], Dim) else [row for row in dims if row]
        path = module_path(node)
        sized = hasattr(node.target, "_schema") and signature(node.target)[0] in SIZES
        while True:
            for row in rows:
                for dim in row:
                    _note(everywhere.setdefault(path, {}), dim)
                    if sized and path == module_path(node):
                        _note(own.setdefault(path, {}), dim)
            if not path:
                break
            path = path.rpartition(".")[0]
    for name, row in trace.parameters.items():
        path = name.rpartition(".")[0]
        while path:
            for dim in row:
                _note(everywhere.setdefault(path, {}), dim)
            path = path.rpartition(".")[0]
    return own, everywhere


def _note(sizes: Sizes, dim: Dim) -> None:
    dim = dim.root()
    row = sizes.setdefault(dim.size, {})
    row.pop(id(dim), None)  # the order is that of the last occurrence: what a module returns comes last
    row[id(dim)] = dim


_FIXED_WORDS = (
    "patch", "seq", "len", "vocab", "class", "kernel", "stride", "image", "img", "window", "resolution", "max_",
    "padding", "dilation", "layers", "depth", "idx", "index", "position", "bucket", "shift",
)  # fmt: skip
_WIDTH_WORDS = ("dim", "embed", "hidden", "channel", "width")
_SIZE_WORDS = (
    "dim", "size", "width", "feature", "channel", "hidden", "embed", "planes", "inner", "units", "d_model",
)  # fmt: skip


def guess(name: str, number: int, own: Sizes, anywhere: Sizes, kinds: Mapping[int, str]) -> Dim | None:
    """Return the term that an integer attribute stands for, or None where it means no size that can change."""
    lower = name.lower()
    if any(word in lower for word in _FIXED_WORDS) and not any(word in lower for word in _WIDTH_WORDS):
        return None
    for sizes in (own, anywhere):
        if sizes is anywhere and (number < 8 or not any(word in lower for word in _SIZE_WORDS)):
            return None  # it feeds no operation of its own module: only a telling name is worth a guess
        terms = [dim for dim in sizes.get(number, {}).values() if any(a.reason is None for a in atoms(dim))]
        if not terms or (sizes is anywhere and len(terms) < len(sizes[number])):
            continue  # a guess that could as well mean something fixed is none
        return max(reversed(terms), key=lambda term: _fits(lower, term, kinds))
    return None


def _fits(name: str, dim: Dim, kinds: Mapping[int, str]) -> int:
    """Score how well an attribute's name suits a term."""
    inside = {kinds.get(id(atom), "") for atom in atoms(dim)}
    size_word = any(word in name for word in ("dim", "size", "width", "feature", "channel"))
    if "group" in name or "rep" in name:
        return 2 * (inside == {"group"})
    if "head" in name and not size_word:
        return 2 * (inside <= {"heads", "group"}) - ("kv" in name or "key_value" in name) * (inside != {"heads"})
    if "head" in name:
        return 2 * (inside == {"head_width"})
    return int(bool(inside & {"head_width"}) and len(inside) > 1) if "inner" in name or "all" in name else 0
