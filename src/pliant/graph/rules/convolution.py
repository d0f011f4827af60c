"""Convolutions (1-D to 3-D, grouped, depthwise, transposed) and the spatial operations beside them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..dims import Dim, split_product
from ..trace import Call, Dims, Tracer

KERNEL = ("kernel", "a kernel's extent")
SPACE = ("space", "an image's or sequence's extent")


def _channels(t: Tracer, call: Call) -> tuple[Dims, Dims, int]:
    x, weight = t.of(call["input"]), t.of(call["weight"])
    spatial = len(weight) - 2
    for dim in weight[2:]:
        t.freeze(dim, *KERNEL, call.node)
    for dim in x[len(x) - spatial :]:
        t.freeze(dim, *SPACE, call.node)
    return x, weight, len(x) - spatial - 1


def _finish(t: Tracer, call: Call, x: Dims, at: int, out: Dim) -> None:
    if call["bias"] is not None:
        t.tie(out, t.of(call["bias"])[0], call.node)
    sizes = call.out.shape[at + 1 :]
    t.set(call, [*x[:at], out, *t.fixed(sizes, *SPACE)])


def conv(t: Tracer, call: Call) -> None:
    """`convNd(input (N, C, *), weight (O, C/groups, *))`: groups are a factor of both C and O."""
    x, weight, at = _channels(t, call)
    groups, channels, out = int(call["groups"]), x[at], weight[0]
    if groups == 1:
        t.tie(channels, weight[1], call.node)
    elif weight[1].root().size == 1 and channels.root().size == out.root().size:
        t.tie(channels, out, call.node)
    else:
        inner = split_product(channels, [groups, channels.root().size // groups])
        outer = split_product(out, [groups, out.root().size // groups])
        t.tie(inner[0], outer[0], call.node)
        t.tie(inner[1], weight[1], call.node)
    _finish(t, call, x, at, out)


def conv_transpose(t: Tracer, call: Call) -> None:
    """`conv_transposeNd(input (N, C, *), weight (C, O/groups, *))`."""
    x, weight, at = _channels(t, call)
    groups, channels = int(call["groups"]), x[at]
    t.tie(channels, weight[0], call.node)
    if groups == 1:
        out = weight[1]
    else:
        inner = split_product(channels, [groups, channels.root().size // groups])
        out = Dim(groups * weight[1].root().size)
        outer = split_product(out, [groups, weight[1].root().size])
        t.tie(inner[0], outer[0], call.node)
        t.tie(outer[1], weight[1], call.node)
    _finish(t, call, x, at, out)


def spatial(t: Tracer, call: Call) -> None:
    """Pooling and resizing: batch and channels pass on, the rest is space."""
    x = t.of(call.first)
    value = call.out
    results = list(value) if isinstance(value, (list, tuple)) else [value]
    kept = 2 if len(x) > 3 or call.name.endswith("1d") or "1d" in call.name else max(len(x) - 2, 0)
    outs = [
        [x[i] if i < kept and x[i].root().size == int(s) else t.fixed([s], *SPACE)[0] for i, s in enumerate(v.shape)]
        for v in results
    ]
    for dim in x[kept:]:
        t.freeze(dim, *SPACE, call.node)
    t.set(call, outs if isinstance(value, (list, tuple)) else outs[0])


def pad(t: Tracer, call: Call) -> None:
    """Padding: a dimension that grows is kept fixed (padded channels are not units)."""
    out = []
    for dim, size in zip(t.of(call.first), call.out.shape, strict=True):
        if dim.root().size == int(size):
            out.append(dim)
        else:
            t.freeze(dim, "pad", "it is padded", call.node)
            out.append(t.fixed([size], "pad", "it is padded", call.node)[0])
    t.set(call, out)


def pixel_shuffle(t: Tracer, call: Call) -> None:
    """`pixel_shuffle(x (N, C*r*r, H, W), r)`."""
    x, r = t.of(call.first), int(call["upscale_factor"])
    parts = split_product(x[-3], [x[-3].root().size // (r * r), r * r])
    t.freeze(parts[1], *SPACE, call.node)
    t.set(call, [*x[:-3], parts[0], *t.fixed(call.out.shape[-2:], *SPACE)])


def resize_groups(t: Tracer, call: Call, size: Callable[[Dim], Any]) -> dict[str, Any]:
    """Recompute ``groups`` of a (transposed) convolution."""
    if int(call["groups"]) == 1:
        return {}
    weight, x = t.of(call["weight"]), t.of(call["input"])
    channels = x[len(x) - len(weight) + 1]
    if call.name.startswith("conv_transpose"):
        out = t.of(call.node)[len(x) - len(weight) + 1]
        return {"groups": size(out) // size(weight[1])}
    return {"groups": size(channels) // size(weight[1])}


_POOLS = [
    "max_pool1d",
    "max_pool2d",
    "max_pool3d",
    "avg_pool1d",
    "avg_pool2d",
    "avg_pool3d",
    "adaptive_avg_pool1d",
    "adaptive_avg_pool2d",
    "adaptive_avg_pool3d",
    "adaptive_max_pool1d",
    "adaptive_max_pool2d",
    "max_pool2d_with_indices",
    "max_pool1d_with_indices",
    "lp_pool2d",
    "upsample_bilinear2d",
    "upsample_nearest1d",
    "upsample_nearest2d",
    "upsample_nearest3d",
    "upsample_bicubic2d",
    "upsample_linear1d",
    "upsample_trilinear3d",
    "_upsample_bicubic2d_aa",
    "_upsample_bilinear2d_aa",
    "_adaptive_avg_pool2d",
]
_PADS = [
    "pad",
    "constant_pad_nd",
    "reflection_pad1d",
    "reflection_pad2d",
    "replication_pad1d",
    "replication_pad2d",
    "zero_pad2d",
]

RULES = (
    dict.fromkeys(("conv1d", "conv2d", "conv3d"), conv)
    | dict.fromkeys(("conv_transpose1d", "conv_transpose2d", "conv_transpose3d"), conv_transpose)
    | dict.fromkeys(_POOLS, spatial)
    | dict.fromkeys(_PADS, pad)
    | {"pixel_shuffle": pixel_shuffle}
)
SIZES = dict.fromkeys(
    ("conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d"), resize_groups
)
