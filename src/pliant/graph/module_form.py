"""The module form of a smaller network: the user's own class with smaller tensors and patched integer attributes.

Which attribute means which size is found once: sizes that a module's own operations were given (the arguments of its
views and splits) come first, then the sizes of anything in it; names break ties. A wrong guess does no harm: both forms
are run and compared, and where the module form fails or disagrees the graph form is used.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import Node
from torch.utils import _pytree as pytree

from .analysis import Analysis
from .clone import clone_tree
from .dims import Dim, atoms
from .nouns import Interface
from .rules import SIZES
from .slicing import Slicing
from .tensors import Supply
from .trace import Call, module_path, signature


class Skip(nn.Module):
    """Stands where a block was left out: hands its hidden input on in the structure that the block returned."""

    def __init__(self, interface: Interface) -> None:
        super().__init__()
        self.interface = interface

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Return the hidden state unchanged, other results as they came in, or None."""
        flat, _ = pytree.tree_flatten((args, kwargs))
        out = [flat[at] if at is not None and at >= 0 else None for at in self.interface.passed]
        out[self.interface.result] = flat[self.interface.hidden]
        return pytree.tree_unflatten(out, self.interface.spec)


@dataclass(frozen=True)
class _Patch:
    """Attribute ``name`` (entry ``item`` of it, if it is a tuple) of the module at ``path`` is the size ``dim``."""

    path: str
    name: str
    item: int | None
    dim: Dim


class ModuleForm:
    """Builds smaller copies of one model; what to patch is worked out once.

    Args:
        model: the full network.
        analysis: its analysis.
    """

    def __init__(self, model: nn.Module, analysis: Analysis) -> None:
        self.model, self.analysis = model, analysis
        self._patches = _find_patches(model, analysis)
        self._sized = _sized(model, analysis)
        aliases = analysis.capture.aliases
        self._places: list[tuple[str, str, bool, str]] = []
        for path, module in model.named_modules():
            for store, is_parameter in ((module._parameters, True), (module._buffers, False)):
                for name, tensor in store.items():
                    if tensor is not None:
                        full = f"{path}.{name}" if path else name
                        self._places.append((path, name, is_parameter, aliases.get(full, full)))

    def build(self, slicing: Slicing, supply: Supply) -> nn.Module:
        """Return the user's network with the tensors of ``supply``, its sizes patched and its blocks dropped."""
        net = clone_tree(self.model)
        modules = dict(net.named_modules(remove_duplicate=False))
        given: dict[str, Tensor] = {}
        for path, name, is_parameter, canonical in self._places:
            if canonical not in given:
                given[canonical] = supply(canonical)
            module = modules[path]
            (module._parameters if is_parameter else module._buffers)[name] = given[canonical]
        if not slicing.whole:
            self._patch(modules, slicing)
        for block in slicing.dropped:
            parent, _, last = block.module.rpartition(".")
            skip = nn.Identity() if block.interface.plain else Skip(block.interface)
            modules[parent]._modules[last] = skip.train(net.training)
        return net

    def _patch(self, modules: Mapping[str, nn.Module], slicing: Slicing) -> None:
        for patch in self._patches:
            size = slicing.size(patch.dim)
            if size == patch.dim.root().size:
                continue
            values = modules[patch.path].__dict__
            if patch.item is None:
                values[patch.name] = size
            else:
                items = list(values[patch.name])
                items[patch.item] = size
                values[patch.name] = type(values[patch.name])(items)
        for path, name, node in self._sized:
            changes = SIZES[signature(node.target)[0]](self.analysis.trace, Call(node), slicing.size)
            if changes:
                value = changes[name]
                modules[path].__dict__[name] = tuple(value) if isinstance(value, list) else value
        for module in modules.values():
            _follow_shapes(module)


def _follow_shapes(module: nn.Module) -> None:
    """Let torch's own layers say the sizes that their tensors have."""
    weight = module._parameters.get("weight")
    if weight is None:
        return
    values = module.__dict__
    if isinstance(module, nn.Linear):
        values["out_features"], values["in_features"] = weight.shape
    elif isinstance(module, nn.modules.conv._ConvNd):
        groups = module.groups
        out, inner = weight.shape[:2]
        if module.transposed:
            values["in_channels"], values["out_channels"] = out, inner * groups
        else:
            values["out_channels"], values["in_channels"] = out, inner * groups
    elif isinstance(module, nn.modules.batchnorm._NormBase):
        values["num_features"] = weight.shape[0]
    elif isinstance(module, (nn.LayerNorm, nn.RMSNorm)):
        values["normalized_shape"] = tuple(weight.shape)
    elif isinstance(module, nn.GroupNorm):
        values["num_channels"] = weight.shape[0]
    elif isinstance(module, nn.Embedding):
        values["num_embeddings"], values["embedding_dim"] = weight.shape


_TORCH_SIZES = (
    nn.Linear, nn.modules.conv._ConvNd, nn.modules.batchnorm._NormBase, nn.LayerNorm, nn.RMSNorm, nn.GroupNorm,
    nn.Embedding,
)  # fmt: skip


def _sized(model: nn.Module, analysis: Analysis) -> list[tuple[str, str, Node]]:
    """List torch's layers with a size of their own that no tensor tells: module path, attribute, operation."""
    modules = dict(model.named_modules(remove_duplicate=False))
    found = []
    for node in analysis.capture.graph.nodes:
        if node.op != "call_function" or not hasattr(node.target, "_schema"):
            continue
        name = signature(node.target)[0]
        owner = modules.get(module_path(node))
        if name.startswith("conv") and isinstance(owner, nn.modules.conv._ConvNd) and owner.groups > 1:
            found.append((module_path(node), "groups", node))
        elif name == "group_norm" and isinstance(owner, nn.GroupNorm):
            found.append((module_path(node), "num_groups", node))
        elif name == "channel_shuffle" and isinstance(owner, nn.ChannelShuffle):
            found.append((module_path(node), "groups", node))
        elif name in ("layer_norm", "rms_norm") and isinstance(owner, (nn.LayerNorm, nn.RMSNorm)):
            found.append((module_path(node), "normalized_shape", node))
    return found


def _find_patches(model: nn.Module, analysis: Analysis) -> list[_Patch]:
    modules = dict(model.named_modules(remove_duplicate=False))
    own, any_ = _sizes_by_module(analysis)
    kinds = {id(axis.atom): axis.kind for axis in analysis.axes}
    patches = []
    for path, module in modules.items():
        if isinstance(module, _TORCH_SIZES) and type(module).__module__.startswith("torch."):
            continue
        for name, value in module.__dict__.items():
            if name.startswith("_") or isinstance(value, bool):
                continue
            items = enumerate(value) if isinstance(value, (tuple, torch.Size, list)) else [(None, value)]
            for item, number in items:
                if isinstance(number, int) and not isinstance(number, bool) and number > 1:
                    dim = _meaning(name, number, own.get(path, {}), any_.get(path, {}), kinds)
                    if dim is not None:
                        patches.append(_Patch(path, name, item, dim))
    return patches


Sizes = dict[int, dict[int, Dim]]  # size -> id of the term -> term, in order of last occurrence


def _sizes_by_module(analysis: Analysis) -> tuple[dict[str, Sizes], dict[str, Sizes]]:
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


def _meaning(name: str, number: int, own: Sizes, anywhere: Sizes, kinds: Mapping[int, str]) -> Dim | None:
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
