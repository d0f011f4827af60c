"""torch's own layers: which of their attributes are sizes, told by their tensors and their operations."""

from __future__ import annotations

from torch import nn
from torch.fx import Node

from .analysis import Analysis
from .rules import SIZES
from .slicing import Slicing
from .trace import Call, module_path, signature

TORCH_SIZES = (
    nn.Linear, nn.modules.conv._ConvNd, nn.modules.batchnorm._NormBase, nn.LayerNorm, nn.RMSNorm, nn.GroupNorm,
    nn.Embedding,
)  # fmt: skip


def is_torch_layer(module: nn.Module) -> bool:
    """Tell whether a module is one of torch's own layers, whose attributes follow from their tensors."""
    return isinstance(module, TORCH_SIZES) and type(module).__module__.startswith("torch.")


def follow_shapes(module: nn.Module) -> None:
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
    elif isinstance(module, (nn.Embedding, nn.EmbeddingBag)):
        values["num_embeddings"], values["embedding_dim"] = weight.shape


def sized_layers(model: nn.Module, analysis: Analysis) -> list[tuple[str, str, Node]]:
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


def layer_sizes(analysis: Analysis, row: tuple[str, str, Node], slicing: Slicing) -> object | None:
    """Return the new value of what :func:`sized_layers` lists; None where it stays."""
    _, name, node = row
    changes = SIZES[signature(node.target)[0]](analysis.trace, Call(node), slicing.size)
    if not changes:
        return None
    value = changes[name]
    return tuple(value) if isinstance(value, list) else value
