"""Random small networks, drawn by hypothesis: what people build, put together in ways that nobody wrote down.

A network is a row of steps on a residual stream of one of three layouts: features ``(B, C)``, tokens ``(B, T, C)`` or
images ``(B, C, H, W)``. Each step draws its sizes; a step may be called twice, and may share weights with another.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from hypothesis import strategies as st
from torch import Tensor, nn

Draw = Callable[[st.SearchStrategy[Any]], Any]


class Feedforward(nn.Module):
    """Two linear layers, plain or gated, split by `chunk` or made by two projections."""

    def __init__(self, width: int, hidden: int, kind: str, act: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.kind, self.act = kind, act
        self.up = nn.Linear(width, hidden * (2 if kind == "packed" else 1), bias=kind != "gated")
        self.gate = nn.Linear(width, hidden) if kind == "gated" else None
        self.down = nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        if self.gate is not None:
            return self.down(self.act(self.gate(x)) * self.up(x))
        if self.kind == "packed":
            left, right = self.up(x).chunk(2, dim=-1)
            return self.down(left * torch.sigmoid(right))
        return self.down(self.act(self.up(x)))


class Attention(nn.Module):
    """Self-attention: fused or separate projections, grouped key heads, by hand or by the fused operation."""

    def __init__(self, width: int, heads: int, groups: int, head: int, kind: str) -> None:
        super().__init__()
        self.heads, self.kv_heads, self.head_dim, self.kind = heads, heads // groups, head, kind
        self.groups = groups
        sizes = (heads * head, self.kv_heads * head, self.kv_heads * head)
        self.sizes = sizes
        if "fused" in kind:
            self.qkv = nn.Linear(width, sum(sizes))
        else:
            self.q, self.k, self.v = (nn.Linear(width, size) for size in sizes)
        self.out = nn.Linear(sizes[0], width)

    def forward(self, x: Tensor) -> Tensor:
        batch, tokens, _ = x.shape
        if "fused" in self.kind:
            q, k, v = self.qkv(x).split(self.sizes, dim=-1)
        else:
            q, k, v = self.q(x), self.k(x), self.v(x)
        q = q.view(batch, tokens, self.heads, self.head_dim).transpose(1, 2)
        k = k.view(batch, tokens, self.kv_heads, self.head_dim).transpose(1, 2)
        v = v.reshape(batch, tokens, -1, self.head_dim).permute(0, 2, 1, 3)
        if self.groups > 1:
            k, v = (t.repeat_interleave(self.groups, dim=1) for t in (k, v))
        if "manual" in self.kind:
            y = ((q @ k.transpose(-2, -1)) * 0.3).softmax(-1) @ v
        else:
            y = F.scaled_dot_product_attention(q, k, v, scale=0.3)
        return self.out(y.transpose(1, 2).reshape(batch, tokens, self.heads * self.head_dim))


class Convolution(nn.Module):
    """A bottleneck: plain, grouped, depthwise, or two branches that are concatenated, with an optional gate."""

    def __init__(self, width: int, hidden: int, kind: str, gate: bool) -> None:
        super().__init__()
        self.kind = kind
        groups = {"grouped": 2, "depthwise": hidden}.get(kind, 1)
        self.reduce, self.norm = nn.Conv2d(width, hidden, 1), nn.BatchNorm2d(hidden)
        self.mix = nn.Conv2d(hidden, hidden, 3, padding=1, groups=groups)
        self.side = nn.Conv2d(width, 6, 1) if kind == "branches" else None
        total = hidden + (6 if self.side is not None else 0)
        self.squeeze = nn.Linear(total, 4) if gate else None
        self.excite = nn.Linear(4, total) if gate else None
        self.expand = nn.Conv2d(total, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.mix(F.relu(self.norm(self.reduce(x))))
        if self.kind == "shuffled":
            batch, _, height, width = y.shape
            y = y.view(batch, 2, -1, height, width).transpose(1, 2).reshape(batch, -1, height, width)
        if self.side is not None:
            y = torch.cat([y, self.side(x)], 1)
        if self.squeeze is not None and self.excite is not None:
            y = y * self.excite(F.relu(self.squeeze(y.mean((2, 3)))))[:, :, None, None].sigmoid()
        return self.expand(F.relu(y))


class Mixing(nn.Module):
    """What features are mixed by: parts of different sizes split, changed apart, joined in another order."""

    def __init__(self, width: int, parts: tuple[int, int], kind: str) -> None:
        super().__init__()
        self.parts, self.kind = parts, kind
        self.enter, self.left = nn.Linear(width, sum(parts)), nn.Linear(parts[0], parts[0])
        self.scale = nn.Parameter(torch.ones(parts[1]))
        self.leave = nn.Linear(sum(parts), width)

    def forward(self, x: Tensor) -> Tensor:
        y = self.enter(x)
        if self.kind == "split":
            a, b = torch.split(y, list(self.parts), dim=-1)
        elif self.kind == "slice":
            a, b = y[..., : self.parts[0]], y[..., self.parts[0] :]
        else:
            a, b = y.narrow(-1, 0, self.parts[0]), y.narrow(-1, self.parts[0], self.parts[1])
        return self.leave(torch.cat([torch.tanh(b) * self.scale, F.gelu(self.left(a))], dim=-1))


class Step(nn.Module):
    """One step on the stream: added, added after a norm, concatenated and projected back, or replacing it."""

    def __init__(self, inner: nn.Module, norm: nn.Module, join: str, back: nn.Module | None) -> None:
        super().__init__()
        self.inner, self.norm, self.join, self.back = inner, norm, join, back

    def forward(self, x: Tensor) -> Tensor:
        y = self.inner(x if self.join == "post" else self.norm(x))
        if self.back is not None:
            return self.back(torch.cat([x, y], dim=1 if x.dim() == 4 else -1))
        if self.join == "plain":
            return y
        return self.norm(x + y) if self.join == "post" else x + y


class Network(nn.Module):
    """An entrance, steps on a stream, an exit; the exit of a language model may be its embedding."""

    def __init__(self, entrance: nn.Module, steps: list[nn.Module], leave: nn.Module, pool: str) -> None:
        super().__init__()
        self.entrance, self.steps, self.leave, self.pool = entrance, nn.ModuleList(steps), leave, pool
        self.position: nn.Parameter | None = None

    def forward(self, x: Tensor) -> Tensor:
        x = self.entrance(x)
        if self.position is not None:
            x = x + self.position
        for step in self.steps:
            x = step(x)
        if self.pool == "image":
            x = x.mean((2, 3))
        elif self.pool == "flat":
            x = x.flatten(1)
        return self.leave(x)


@dataclass(frozen=True)
class Drawn:
    """A random network, its input, what it is made of, and whether a cut of it equals the masked original."""

    model: nn.Module
    x: Tensor
    recipe: tuple[Any, ...]
    maskable: bool


WIDTHS = (4, 6, 8, 12)
ACTS = (F.relu, F.gelu, torch.tanh)


@st.composite
def networks(draw: Draw) -> Drawn:
    """Draw a network; its weights follow from a drawn seed."""
    torch.manual_seed(draw(st.integers(0, 2**16)))
    layout = draw(st.sampled_from(["features", "tokens", "text", "image"]))
    width = draw(st.sampled_from(WIDTHS))
    recipe: list[Any] = [layout, width]
    makers = {"image": _convolution, "features": _dense}.get(layout, _on_tokens)
    steps: list[nn.Module] = []
    for _ in range(draw(st.integers(1, 3))):
        inner, said = makers(draw, width)
        join = draw(st.sampled_from(["pre", "post", "plain", "concat"]))
        norm = _norm(draw, layout, width)
        back: nn.Module | None = None
        if join == "concat":
            back = nn.Conv2d(2 * width, width, 1) if layout == "image" else nn.Linear(2 * width, width)
        steps.append(Step(inner, norm, join, back))
        recipe.append((said, join, type(norm).__name__))
    if len(steps) > 1 and draw(st.integers(0, 4)) == 0:
        steps[-1] = steps[0]
        recipe.append("the last step is the first again")
    return _ended(draw, layout, width, steps, recipe)


def _ended(draw: Draw, layout: str, width: int, steps: list[nn.Module], recipe: list[Any]) -> Drawn:
    if layout == "image":
        flat = draw(st.booleans())
        net = Network(
            nn.Conv2d(3, width, 3, padding=1),
            steps,
            nn.Linear(width * (16 if flat else 1), 3),
            "flat" if flat else "image",
        )
        x = torch.randn(2, 3, 4, 4)
    elif layout == "text":
        table, leave = nn.Embedding(11, width), nn.Linear(width, 11, bias=False)
        if draw(st.booleans()):
            leave.weight = table.weight
            recipe.append("tied")
        net, x = Network(table, steps, leave, ""), torch.randint(0, 11, (2, 5))
    else:
        shape = (3, 7) if layout == "features" else (2, 5, 7)
        net, x = Network(nn.Linear(7, width), steps, nn.Linear(width, 3), ""), torch.randn(shape)
    if layout in ("tokens", "text") and draw(st.booleans()):
        net.position = nn.Parameter(torch.randn(1, 5, width))
        recipe.append("positions")
    maskable = not any(isinstance(m, (nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)) for m in net.modules())
    return Drawn(net, x, tuple(recipe), maskable)


def _norm(draw: Draw, layout: str, width: int) -> nn.Module:
    if layout == "image":
        kind = draw(st.sampled_from(["none", "batch", "group"]))
        if kind == "none":
            return nn.Identity()
        return nn.BatchNorm2d(width) if kind == "batch" else nn.GroupNorm(2, width)
    kind = draw(st.sampled_from(["none", "layer", "rms"]))
    if kind == "none":
        return nn.Identity()
    return nn.LayerNorm(width) if kind == "layer" else nn.RMSNorm(width)


def _dense(draw: Draw, width: int) -> tuple[nn.Module, Any]:
    if draw(st.booleans()):
        hidden, kind = draw(st.sampled_from(WIDTHS)), draw(st.sampled_from(["plain", "gated", "packed"]))
        return Feedforward(width, hidden, kind, draw(st.sampled_from(ACTS))), ("feedforward", hidden, kind)
    parts, kind = draw(st.sampled_from([(4, 6), (5, 5), (2, 8)])), draw(st.sampled_from(["split", "slice", "narrow"]))
    return Mixing(width, parts, kind), ("mixing", parts, kind)


def _on_tokens(draw: Draw, width: int) -> tuple[nn.Module, Any]:
    if draw(st.integers(0, 2)) == 0:
        return _dense(draw, width)
    heads, head = draw(st.sampled_from([2, 4])), draw(st.sampled_from([2, 3, 4]))
    groups = draw(st.sampled_from([1, 1, 2]))
    kind = draw(st.sampled_from(["fused", "apart", "fused manual", "apart manual"]))
    return Attention(width, heads, groups, head, kind), ("attention", heads, groups, head, kind)


def _convolution(draw: Draw, width: int) -> tuple[nn.Module, Any]:
    hidden, gate = draw(st.sampled_from([4, 8, 12])), draw(st.booleans())
    kind = draw(st.sampled_from(["plain", "grouped", "depthwise", "branches", "shuffled"]))
    return Convolution(width, hidden, kind, gate), ("convolution", hidden, kind, gate)
