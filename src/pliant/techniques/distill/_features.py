"""What distillers share: finding layers to look at, what they give, and comparing features of unequal sizes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from ...checks import WrongShapeError
from ...family.imitation import View, features
from ...family.statistics import keeping_modes
from ...graph.prepare import seeded

Pairs = tuple[tuple[str, str], ...]
_CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)


def one_tensor(value: Any, site: str) -> Tensor:
    """Return the first floating-point tensor that a layer gave.

    Raises:
        WrongShapeError: it gave none, or one without a batch and a width.
    """
    found = [v for v in pytree.tree_leaves(value) if isinstance(v, Tensor) and v.is_floating_point()]
    if not found or found[0].dim() < 2:
        came = f"a tensor of shape {tuple(found[0].shape)}" if found else "none (is it called at all?)"
        raise WrongShapeError(
            f"the layer {site!r} should give a tensor of numbers, the batch first and features after it; it gave "
            f"{came}: name another layer"
        )
    return found[0]


def observe(net: nn.Module, sites: Sequence[str], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> list[Tensor]:
    """Return what the layers ``sites`` of ``net`` give on the example, in evaluation mode and without gradients.

    Raises:
        UnknownNameError: there is no such layer; the nearest is offered.
        WrongShapeError: a layer gives no features.
    """
    with torch.no_grad(), keeping_modes(net):
        net.eval()
        with features(net, sites) as found:
            net(*args, **kwargs)
    return [one_tensor(found.get(site), site) for site in sites]


def spread(net: nn.Module, count: int) -> tuple[str, ...]:
    """Return the paths of up to ``count`` layers, evenly spread over the depth of ``net``, the last one included.

    They are the instances of one class: the block, of several layers, that holds a third of the weights or more over
    its instances; else the single layer that holds most, but for the last of these, whose outputs are the network's.

    Raises:
        WrongShapeError: nothing in the network occurs more than once.
    """
    kinds: dict[type[nn.Module], list[str]] = {}
    weights: dict[type[nn.Module], int] = {}
    modules = dict(net.named_modules())
    for path, module in modules.items():
        kind, size = type(module), sum(p.numel() for p in module.parameters())
        if not path or not size or isinstance(module, _CONTAINERS):
            continue
        paths = kinds.setdefault(kind, [])
        if not any(path.startswith(f"{other}.") for other in paths):
            paths.append(path)
            weights[kind] = weights.get(kind, 0) + size
    third = sum(p.numel() for p in net.parameters()) / 3
    plain = {kind for kind, paths in kinds.items() if next(modules[paths[0]].children(), None) is None}
    able = [kind for kind, paths in kinds.items() if len(paths) > 1 and (kind in plain or weights[kind] >= third)]
    if not able:
        raise WrongShapeError("no kind of layer occurs more than once in the network; name the layers to look at")
    best = max(able, key=lambda kind: (kind not in plain, weights[kind]))
    paths = kinds[best][:-1] if best in plain else kinds[best]
    count = min(count, len(paths))
    return tuple(paths[round((k + 1) * len(paths) / count) - 1] for k in range(count))


@contextmanager
def fixed_draws() -> Iterator[None]:
    """Draw from the same random numbers each time: what a distiller adds depends on the networks alone."""
    with seeded(0):
        yield


def width_of(feature: Tensor) -> int:
    """Return the number of channels of a map ``(B, C, *sizes)``, or the width of tokens ``(B, N, C)`` or ``(B, C)``."""
    return int(feature.shape[1] if is_map(feature) else feature.shape[-1])


def is_map(feature: Tensor) -> bool:
    """Return whether a feature is a map of channels over two dimensions or more; its channels come second."""
    return feature.dim() >= 4


def widened(feature: Tensor, width: int) -> Tensor:
    """Return the feature of a smaller member with zeros in place of the channels that it does not have."""
    missing = width - width_of(feature)
    if missing <= 0:
        return feature
    return F.pad(feature, ((0, 0) * (feature.dim() - 2) if is_map(feature) else ()) + (0, missing))


def nothing(view: View) -> Tensor:
    """Return a loss of 0 that a backward pass can start from."""
    return sum((v.sum() * 0.0 for v in pytree.tree_leaves(view.outputs) if isinstance(v, Tensor)), torch.zeros(()))


def fitted(left: Tensor, right: Tensor, map_: nn.Module) -> tuple[Tensor, Tensor]:
    """Bring a student's feature and a teacher's to the same shape, channels last.

    Maps are averaged down to the smaller of their sizes. Where ``map_`` is a linear layer, channels that a smaller
    member lacks count as zeros; else the teacher's leading units are taken.
    """
    if is_map(left):
        sizes = [min(a, b) for a, b in zip(left.shape[2:], right.shape[2:], strict=True)]
        left, right = (_averaged(v, sizes).movedim(1, -1) for v in (left, right))
    if isinstance(map_, nn.Linear):
        missing = map_.in_features - left.shape[-1]
        return map_(F.pad(left, (0, missing))), right
    return left, right[..., : left.shape[-1]]


def _averaged(value: Tensor, sizes: Sequence[int]) -> Tensor:
    if list(value.shape[2:]) == list(sizes):
        return value
    pool: Any = F.adaptive_avg_pool2d if len(sizes) == 2 else F.adaptive_avg_pool3d
    averaged: Tensor = pool(value, sizes)
    return averaged


def check_alike(what: str, left: Tensor, right: Tensor) -> None:
    """Refuse two features that are not of one kind.

    Raises:
        WrongShapeError: one is a map and the other is not, or they are of unequal numbers of tokens.
    """
    if left.dim() != right.dim() or (left.dim() == 3 and left.shape[1] != right.shape[1]) or left.dim() > 5:
        raise WrongShapeError(
            f"{what} give {tuple(left.shape)} and {tuple(right.shape)}; features are matched map to map (B, C, *sizes),"
            " tokens to as many tokens (B, N, C), or vectors to vectors (B, C): name other layers"
        )


def floats(value: Any) -> list[Tensor]:
    """Return the floating-point tensors of a structure of outputs."""
    return [v for v in pytree.tree_leaves(value) if isinstance(v, Tensor) and v.is_floating_point()]
