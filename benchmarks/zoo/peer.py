"""Torch-Pruning on the networks of the zoo, as its README calls it, and whether what it cuts is correct.

Settings are those of its README: L2 importance of groups, ratio 0.5, dimensions rounded to a multiple of 8, the layer
that makes the classes left alone. Attention heads have to be named to it; they are named here wherever a module has a
count of heads and one fused or three separate projections, and the module's own counts are corrected afterwards, as its
examples for timm and transformers do. Both of its ways with heads are tried (narrower heads, fewer heads), with and
without rounding; the best result counts.

Correct means: equal to the original in which the same weights are zero. It cuts gradients beside weights, so that the
places of a weight, put there as numbers, tell afterwards which ones stayed. A norm of the reference runs over the
channels that stayed; what this reference does not confirm is held against that of `kept_norms` too, which follows norms
that are written by hand.
"""

from __future__ import annotations

import contextlib
import copy
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import import_module
from typing import Any
from unittest import mock

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from pliant.checks import PliantError
from pliant.graph.realise import difference, outputs
from tests.graph.support import randomise

from .entries import Net
from .measure import in_double
from .peer_units import kept_places, outputs_over_what_stays

Record = dict[str, Any]
CORRECT = 1e-3
EXACT = 2**24  # places in larger tensors are no exact numbers in single precision
# How heads and sizes are cut: the README's own, and the two that its examples use for transformers.
SETTINGS: Mapping[str, Mapping[str, Any]] = {
    "readme": {"round_to": 8},
    "not rounded": {},
    "whole heads": {"prune_num_heads": True, "prune_head_dims": False, "head_pruning_ratio": 0.5},
}
_HEADS = ("num_heads", "num_attention_heads", "n_head", "n_heads", "nhead")
_WIDTHS = ("head_dim", "attention_head_size", "head_size")
_TOTALS = ("all_head_size", "embed_dim", "inner_dim", "attn_dim")
_PROJECTIONS = (
    ("qkv",),
    ("query", "key", "value"),
    ("q_proj", "k_proj", "v_proj"),
    ("q", "k", "v"),
    ("q_lin", "k_lin", "v_lin"),
)


def measure_peer(net: Net, keep: Callable[[Record], None]) -> Record:
    """Prune one network in every setting; the record holds each outcome and the best of them."""
    record: Record = {"name": net.name, "group": net.group, "outcome": "unfinished", "settings": {}, "seconds": {}}
    begun = time.process_time()
    order = {"correct": 0, "wrong": 1, "nothing cut": 2, "error": 3, "not made": 4}
    for setting in SETTINGS:
        found = _one(net, setting)
        record["settings"][setting] = found
        best = min(record["settings"].values(), key=lambda row: (order[row["outcome"]], row.get("left", 1.0)))
        keep(record | {"best": best})
        if found["outcome"] == "not made":
            break
    record |= best
    record["seconds"] = {**best.get("seconds", {}), "all": round(time.process_time() - begun, 2)}
    keep(record)
    return record


def _one(net: Net, setting: str) -> Record:
    torch.manual_seed(11)
    stage = "not made"
    try:
        model, args, kwargs = net.make()
        model = randomise(model)
        if max(p.numel() for p in model.parameters()) > EXACT:
            model.double()
            args, kwargs = pytree.tree_map(in_double, tuple(args)), pytree.tree_map(in_double, kwargs)
        before = outputs(model, args, kwargs)
        original, count = copy.deepcopy(model), sum(p.numel() for p in model.parameters())
        stage = "error"
        start = time.process_time()
        prune(model, tuple(args), kwargs, SETTINGS[setting])
        seconds = round(time.process_time() - start, 3)
        after = outputs(model, args, kwargs)
        if [v.shape for v in after] != [v.shape for v in before]:
            return {"outcome": "wrong", "error": "the pruned network gives other shapes", "seconds": {"prune": seconds}}
        left = sum(p.numel() for p in model.parameters()) / count
        if left == 1.0:
            return {"outcome": "nothing cut", "left": 1.0, "seconds": {"prune": seconds}}
        gap = _gap(after, original, model, tuple(args), kwargs)
    except Exception as error:  # noqa: BLE001  (whatever it raises is the result)
        return {"outcome": stage, "error": f"{type(error).__name__}: {error}"[:400]}
    return {
        "outcome": "correct" if gap <= CORRECT else "wrong",
        "gap": gap,
        "left": left,
        "seconds": {"prune": seconds},
    }


# ---- pruning as its documentation says ------------------------------------------------------------------------------
def prune(model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], setting: Mapping[str, Any]) -> None:
    """Prune ``model`` in place to half of its channels; afterwards gradients hold the places of what stayed."""
    tp = import_module("torch_pruning")
    heads = dict(_heads(model))
    pruner = tp.pruner.BasePruner(
        model,
        args if not kwargs else {"args": args, "kwargs": kwargs},
        importance=tp.importance.GroupMagnitudeImportance(p=2),
        pruning_ratio=0.5,
        ignored_layers=_classifiers(model),
        num_heads={layer: count for _, layers, count in heads.values() for layer in layers},
        forward_fn=_forward,
        output_transform=_tensors,
        **setting,
    )
    for parameter in model.parameters():
        parameter.grad = torch.arange(parameter.numel(), dtype=parameter.dtype).reshape(parameter.shape)
    pruner.step()
    for module, layers, _ in heads.values():
        _correct(module, layers, pruner.num_heads)


def _forward(model: nn.Module, inputs: Any) -> Any:
    if isinstance(inputs, dict) and set(inputs) == {"args", "kwargs"}:
        return model(*inputs["args"], **copy.deepcopy(inputs["kwargs"]))
    return model(*inputs)


def _tensors(output: Any) -> list[Tensor]:
    leaves = pytree.tree_leaves(output)
    return [leaf for leaf in leaves if isinstance(leaf, Tensor) and leaf.is_floating_point() and leaf.requires_grad]


def _classifiers(model: nn.Module) -> list[nn.Module]:
    """Return the layers that make the result: those whose output reaches the network's own, found by their names' end.

    The README names layers of 1000 outputs; here the last linear or convolutional layer, and every layer with as many
    outputs as classes, labels or words.
    """
    sizes = {1000, *(getattr(model, name, None) for name in ("num_classes", "num_labels", "vocab_size"))}
    config = getattr(model, "config", None)
    sizes |= {getattr(config, name, None) for name in ("num_labels", "vocab_size")} - {None}
    layers = [m for m in model.modules() if isinstance(m, (nn.Linear, nn.Conv2d, nn.Conv1d, nn.Conv3d))]
    found = [m for m in layers if getattr(m, "out_features", getattr(m, "out_channels", 0)) in sizes]
    return [*found, *layers[-1:]]


def _heads(model: nn.Module) -> Iterator[tuple[str, tuple[nn.Module, list[nn.Module], int]]]:
    for path, module in model.named_modules():
        count = next((getattr(module, name) for name in _HEADS if isinstance(getattr(module, name, None), int)), None)
        if not count:
            continue
        for names in _PROJECTIONS:
            layers = [getattr(module, name, None) for name in names]
            if all(isinstance(layer, nn.Linear) for layer in layers):
                yield path, (module, layers, count)  # type: ignore[misc]
                break


def _correct(module: nn.Module, layers: Sequence[nn.Module], counts: Mapping[nn.Module, int]) -> None:
    """Write the new counts into an attention module, as its examples do by hand."""
    count = counts.get(layers[0], 0)
    if not count:
        return
    total = layers[0].out_features // (3 if len(layers) == 1 else 1)  # type: ignore[operator]
    for names, value in ((_HEADS, count), (_WIDTHS, total // count), (_TOTALS, total)):
        for name in names:
            if isinstance(getattr(module, name, None), int):
                setattr(module, name, value)


def _gap(
    after: list[Tensor], original: nn.Module, pruned: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> float:
    full, places = copy.deepcopy(original), places_of(pruned)
    gap = difference(after, masked_outputs(original, places, args, kwargs))
    if gap > CORRECT:
        with contextlib.suppress(PliantError):  # it cannot be captured: then the first look counts
            again = outputs_over_what_stays(full, original, kept_places(places, full), args, kwargs)
            gap = min(gap, difference(after, again)) if again is not None else gap
    return gap


# ---- the reference --------------------------------------------------------------------------------------------------
def places_of(pruned: nn.Module) -> dict[str, Tensor]:
    """Return the places of the numbers that stayed in each parameter."""
    return {name: p.grad.long().flatten() for name, p in pruned.named_parameters() if p.grad is not None}


def masked_outputs(
    original: nn.Module, places: Mapping[str, Tensor], args: Sequence[Any], kwargs: dict[str, Any]
) -> list[Tensor]:
    """Run the original, which is changed, with zeros where nothing stayed, its norms over what stayed."""
    masks: dict[int, Tensor] = {}
    with torch.no_grad():
        for name, parameter in original.named_parameters():
            mask = torch.zeros(parameter.numel())
            mask[places[name]] = 1.0
            parameter.mul_(mask.reshape(parameter.shape))
            masks[id(parameter)] = mask.reshape(parameter.shape).bool()
    with _norms_over(masks), _root_mean_squares(original, masks):
        return outputs(original, args, kwargs)


@contextmanager
def _norms_over(masks: Mapping[int, Tensor]) -> Iterator[None]:
    """Let layer norms and group norms see only the channels that stayed."""
    layer_norm, group_norm = F.layer_norm, F.group_norm

    def over_last(x: Tensor, shape: Any, weight: Any = None, bias: Any = None, eps: float = 1e-5) -> Tensor:
        mask = masks.get(id(weight))
        if mask is None or mask.all() or mask.dim() != 1:
            return layer_norm(x, shape, weight, bias, eps)
        cut = layer_norm(x[..., mask], (int(mask.sum()),), weight[mask], None if bias is None else bias[mask], eps)
        return torch.zeros_like(x).masked_scatter(mask.expand_as(x), cut)

    def over_groups(x: Tensor, groups: int, weight: Any = None, bias: Any = None, eps: float = 1e-5) -> Tensor:
        mask = masks.get(id(weight))
        if mask is None or mask.all():
            return group_norm(x, groups, weight, bias, eps)
        cut = group_norm(x[:, mask], groups, weight[mask], None if bias is None else bias[mask], eps)
        out = torch.zeros_like(x)
        out[:, mask] = cut
        return out

    with mock.patch.object(F, "layer_norm", over_last), mock.patch.object(F, "group_norm", over_groups):
        yield


@contextmanager
def _root_mean_squares(net: nn.Module, masks: Mapping[int, Tensor]) -> Iterator[None]:
    """Scale what RMS norms written by hand give: their mean runs over the zeros too."""
    hooks = []
    for module in net.modules():
        mask = masks.get(id(getattr(module, "weight", None)))
        if "rmsnorm" in type(module).__name__.lower() and mask is not None and not mask.all():
            root = float(mask.float().mean()) ** 0.5
            hooks.append(module.register_forward_hook(lambda _m, _i, out, root=root: out * root))
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
