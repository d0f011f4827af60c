"""Convolutions (1-D to 3-D, grouped, depthwise, transposed) and the spatial operations beside them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..dims import Dim, product
from ..trace import Call, Dims, Tracer

KERNEL = ("kernel", "a kernel's extent")
SPACE = ("space", "an image's or sequence's extent")


def _channels(t: Tracer, call: Call) -> tuple[Dims, Dims, int]:
    x, weight = t.of(call["input"]), t.of(call["weight"])
    spatial = len(weight) - 2
    for dim in weight[2:]:
        t.freeze(dim, *KERNEL, call.node)
    for i, dim in enumerate(x[len(x) - spatial :]):
        if not _pointwise(call, weight, i):
            t.freeze(dim, *SPACE, call.node)
    return x, weight, len(x) - spatial - 1


def _pointwise(call: Call, weight: Dims, i: int) -> bool:
    """Tell whether each place of a spatial dimension stands for itself: a kernel of one, without step or border."""
    steps, border = call["stride"], call["padding"]
    step = steps[i % len(steps)] if steps else 1
    size = 0 if isinstance(border, str) else border[i % len(border)] if border else 0
    whole = weight[2 + i].root().size == 1 and not any(call.get("output_padding") or ())
    return whole and int(step) == 1 and int(size) == 0


def _finish(t: Tracer, call: Call, x: Dims, at: int, out: Dim) -> None:
    if call["bias"] is not None:
        t.tie(out, t.of(call["bias"])[0], call.node)
    weight, sizes = t.of(call["weight"]), call.out.shape[at + 1 :]
    space = [x[at + 1 + i] if _pointwise(call, weight, i) else fresh for i, fresh in enumerate(t.fixed(sizes, *SPACE))]
    t.set(call, [*x[:at], out, *space])


def conv(t: Tracer, call: Call) -> None:
    """`convNd(input (N, C, *), weight (O, C/groups, *))`: groups are a factor of both C and O."""
    x, weight, at = _channels(t, call)
    groups, channels, out = int(call["groups"]), x[at], weight[0]
    if groups == 1:
        t.tie(channels, weight[1], call.node)
    elif weight[1].root().size == 1 and channels.root().size == out.root().size:
        t.tie(channels, out, call.node)
    else:
        inner = t.factors(channels, [groups, channels.root().size // groups], call.node)
        outer = t.factors(out, [groups, out.root().size // groups], call.node)
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
        inner = t.factors(channels, [groups, channels.root().size // groups], call.node)
        out = Dim(groups * weight[1].root().size)
        outer = t.factors(out, [groups, weight[1].root().size], call.node)
        t.tie(inner[0], outer[0], call.node)
        t.tie(outer[1], weight[1], call.node)
    _finish(t, call, x, at, out)


def spatial(t: Tracer, call: Call) -> None:
    """Pooling and resizing: batch and channels pass on, the rest is space (as many dimensions as the name says)."""
    x = t.of(call.first)
    value = call.out
    results = list(value) if isinstance(value, (list, tuple)) else [value]
    extent = next(int(number) for number in "123" if f"{number}d" in call.name)
    kept = len(x) - extent
    for dim in x[kept:]:
        t.freeze(dim, *SPACE, call.node)
    outs = [[*x[:kept], *t.fixed(v.shape[kept:], *SPACE)] for v in results]
    t.set(call, outs if isinstance(value, (list, tuple)) else outs[0])


def pad(t: Tracer, call: Call) -> None:
    """Padding: a dimension that is padded, cropped or shifted is kept fixed (padded channels are not units)."""
    x, amounts = t.of(call.first), call.get("pad", call.get("padding"))
    out = list(x)
    for i in range(len(amounts) // 2):
        if amounts[2 * i] or amounts[2 * i + 1]:
            at = len(x) - 1 - i
            t.freeze(x[at], "pad", "it is padded", call.node)
            out[at] = t.fixed([call.out.shape[at]], "pad", "it is padded", call.node)[0]
    t.set(call, out)


def pixel_shuffle(t: Tracer, call: Call) -> None:
    """`pixel_shuffle(x (N, C*r*r, H, W), r)`."""
    x, r = t.of(call.first), int(call["upscale_factor"])
    parts = t.factors(x[-3], [x[-3].root().size // (r * r), r * r], call.node)
    for dim in (parts[1], *x[-2:]):
        t.freeze(dim, *SPACE, call.node)
    t.set(call, [*x[:-3], parts[0], *t.fixed(call.out.shape[-2:], *SPACE)])


def pixel_unshuffle(t: Tracer, call: Call) -> None:
    """`pixel_unshuffle(x (N, C, H*r, W*r), r)` gives (N, C*r*r, H, W)."""
    x, r = t.of(call.first), int(call["downscale_factor"])
    for dim in x[-2:]:
        t.freeze(dim, *SPACE, call.node)
    t.set(call, [*x[:-3], product([x[-3], *t.fixed([r * r], *SPACE)]), *t.fixed(call.out.shape[-2:], *SPACE)])


def channel_shuffle(t: Tracer, call: Call) -> None:
    """`channel_shuffle(x (N, groups*C, *), groups)` gives (N, C*groups, *)."""
    x, groups = t.of(call.first), int(call["groups"])
    parts = t.factors(x[1], [groups, x[1].root().size // groups], call.node)
    t.notes[call.node] = parts
    t.set(call, [x[0], product(parts[::-1]), *x[2:]])


def im2col(t: Tracer, call: Call) -> None:
    """`unfold`: (..., C, H, W) gives (..., C*k*k, L)."""
    x = t.of(call.first)
    for dim in x[-2:]:
        t.freeze(dim, *SPACE, call.node)
    window = t.fixed([int(call.out.shape[-2]) // x[-3].root().size], *KERNEL, call.node)
    t.set(call, [*x[:-3], product([x[-3], *window]), *t.fixed(call.out.shape[-1:], *SPACE)])


def col2im(t: Tracer, call: Call) -> None:
    """`fold`: (..., C*k*k, L) gives (..., C, H, W)."""
    x, channels = t.of(call.first), int(call.out.shape[-3])
    parts = t.factors(x[-2], [channels, x[-2].root().size // channels], call.node)
    t.freeze(parts[1], *KERNEL, call.node)
    t.freeze(x[-1], *SPACE, call.node)
    t.set(call, [*x[:-2], parts[0], *t.fixed(call.out.shape[-2:], *SPACE)])


def grid_sampler(t: Tracer, call: Call) -> None:
    """`grid_sample(x (N, C, *), grid (N, *, 2 or 3))`: batch and channels pass on."""
    x, grid = t.of(call["input"]), t.of(call["grid"])
    for dim in (*x[2:], *grid[1:]):
        t.freeze(dim, *SPACE, call.node)
    t.tie(x[0], grid[0], call.node)
    t.set(call, [*x[:2], *t.fixed(call.out.shape[2:], *SPACE)])


def unpool(t: Tracer, call: Call) -> None:
    """`max_unpool(x (..., C, *), indices)`: channels pass on, each with its own places in the image."""
    x, indices, spatial = t.of(call["self"]), t.of(call["indices"]), 3 if call.name.endswith("3d") else 2
    for i, (dim, place) in enumerate(zip(x, indices, strict=True)):
        t.tie(dim, place, call.node)
        if i >= len(x) - spatial:
            t.freeze(dim, *SPACE, call.node)
    t.set(call, [*x[:-spatial], *t.fixed(call.out.shape[-spatial:], *SPACE)])


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


def resize_shuffle(t: Tracer, call: Call, size: Callable[[Dim], Any]) -> dict[str, Any]:
    """Write ``groups`` of a channel shuffle."""
    return {"groups": size(t.notes[call.node][0])}


_POOLS = (
    *(
        f"{kind}_pool{n}d"
        for kind in ("max", "avg", "adaptive_avg", "_adaptive_avg", "adaptive_max")
        for n in (1, 2, 3)
    ),
    *(f"max_pool{n}d_with_indices" for n in (1, 2, 3)),
    *(f"upsample_{kind}" for kind in ("linear1d", "bilinear2d", "bicubic2d", "trilinear3d")),
    *(f"upsample_nearest{n}d" for n in (1, 2, 3)),
    *(f"_upsample_nearest_exact{n}d" for n in (1, 2, 3)),
    *(f"_upsample_{kind}2d_aa" for kind in ("bilinear", "bicubic")),
)
_PADS = (
    "pad",
    "constant_pad_nd",
    *(f"{kind}_pad{n}d" for kind in ("reflection", "replication") for n in (1, 2, 3)),
)

RULES = (
    dict.fromkeys(("conv1d", "conv2d", "conv3d"), conv)
    | dict.fromkeys(("conv_transpose1d", "conv_transpose2d", "conv_transpose3d"), conv_transpose)
    | dict.fromkeys(_POOLS, spatial)
    | dict.fromkeys(_PADS, pad)
    | dict.fromkeys(("max_unpool2d", "max_unpool3d"), unpool)
    | dict.fromkeys(("grid_sampler", "grid_sampler_2d", "grid_sampler_3d"), grid_sampler)
    | {
        "pixel_shuffle": pixel_shuffle,
        "pixel_unshuffle": pixel_unshuffle,
        "channel_shuffle": channel_shuffle,
        "im2col": im2col,
        "col2im": col2im,
    }
)
SIZES = dict.fromkeys(
    ("conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d"), resize_groups
) | {"channel_shuffle": resize_shuffle}
