from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from pliant.graph import analyze
from pliant.graph.module_form import ModuleForm, Skip
from pliant.graph.realise import difference, outputs, sliced_copy
from pliant.graph.slicing import Slicing
from tests.graph.support import Tiny, check


def test_a_small_network_built_by_hand_is_the_same() -> None:
    """The independent reference: a class with smaller sizes, and the weights cut by hand."""

    class Attention(nn.Module):
        def __init__(self, width: int, heads: int, head_dim: int) -> None:
            super().__init__()
            self.heads, self.head_dim = heads, head_dim
            self.q = nn.Linear(width, heads * head_dim)
            self.kv = nn.Linear(width, 2 * heads * head_dim)
            self.out = nn.Linear(heads * head_dim, width)

        def forward(self, x: Tensor) -> Tensor:
            B, T, _ = x.shape
            q = self.q(x).reshape(B, T, self.heads, self.head_dim).transpose(1, 2)
            k, v = self.kv(x).reshape(B, T, 2, self.heads, self.head_dim).permute(2, 0, 3, 1, 4)
            y = torch.nn.functional.scaled_dot_product_attention(q, k, v)
            return self.out(y.transpose(1, 2).reshape(B, T, self.heads * self.head_dim))

    net, x = nn.Sequential(nn.Linear(5, 6), Attention(6, 4, 3), nn.Linear(6, 2)), torch.randn(2, 7, 5)
    analysis = check(net, x, mask=False)
    names = {axis.kind: axis.name for axis in analysis.axes}
    heads, width = [3, 1], [2, 0]
    cut: Any = sliced_copy(net, Slicing(analysis, {names["heads"]: heads, names["head_width"]: width}), "module")
    small = nn.Sequential(nn.Linear(5, 6), Attention(6, 2, 2), nn.Linear(6, 2))
    rows = [h * 3 + d for h in heads for d in width]
    both = rows + [12 + r for r in rows]
    state = {name: value.clone() for name, value in net.state_dict().items()}
    for name, places in (("q", rows), ("kv", both)):
        for part in ("weight", "bias"):
            state[f"1.{name}.{part}"] = state[f"1.{name}.{part}"][places]
    state["1.out.weight"] = state["1.out.weight"][:, rows]
    small.load_state_dict(state)
    assert difference(outputs(cut, (x,), {}), outputs(small, (x,), {})) < 1e-6
    assert (cut[1].heads, cut[1].head_dim) == (2, 2)
    assert cut[1].q.out_features == 4
    assert "out_features=4" in repr(cut)


def test_torch_layers_say_their_new_sizes() -> None:
    net = nn.Sequential(
        nn.Conv2d(3, 12, 1), nn.BatchNorm2d(12), nn.ReLU(), nn.Conv2d(12, 12, 3, groups=12), nn.GroupNorm(4, 12),
        nn.ConvTranspose2d(12, 6, 1), nn.Flatten(1), nn.Linear(6 * 16, 8), nn.LayerNorm(8), nn.Linear(8, 2),
    )  # fmt: skip
    x = torch.randn(2, 3, 6, 6)
    analysis = check(net, x, mask=False)
    slicing = Slicing(analysis, {axis.name: axis.size // 2 for axis in analysis.axes})
    cut: Any = sliced_copy(net, slicing, "module")
    assert (cut[0].out_channels, cut[1].num_features, cut[3].groups) == (2, 2, 2)
    assert (cut[4].num_groups, cut[4].num_channels) == (2, 2)
    assert (cut[5].in_channels, cut[5].out_channels, cut[7].in_features) == (2, 3, 48)
    assert cut[8].normalized_shape == (4,)
    assert type(cut) is type(net)
    assert cut.state_dict().keys() == net.state_dict().keys()


def test_the_original_is_left_alone() -> None:
    net = Tiny(lambda s, x: s.b(s.a(x).relu()), a=nn.Linear(5, 8), b=nn.Linear(8, 2))
    before = {name: value.clone() for name, value in net.state_dict().items()}
    analysis = analyze(net, (torch.randn(3, 5),))
    cut = sliced_copy(net, Slicing(analysis, {analysis.axes[0].name: 3}), "module")
    with torch.no_grad():
        for parameter in cut.parameters():
            parameter.zero_()
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())
    assert net.a.out_features == 8


def test_a_tied_parameter_stays_tied() -> None:
    net = Tiny(lambda s, i: s.head(s.emb(i)), emb=nn.Embedding(20, 8), head=nn.Linear(8, 20, bias=False))
    net.head.weight = net.emb.weight
    analysis = check(net, torch.randint(0, 20, (3, 4)))
    for form in ("module", "graph"):
        cut = sliced_copy(net, Slicing(analysis, {analysis.axes[0].name: 3}), form)
        assert cut.get_parameter("head.weight") is cut.get_parameter("emb.weight")
        assert cut.get_parameter("head.weight").shape == (20, 3)


def test_a_dropped_block_is_an_identity_where_that_will_do() -> None:
    class Block(nn.Module):
        def __init__(self, wrap: bool) -> None:
            super().__init__()
            self.fc, self.wrap = nn.Linear(8, 8), wrap

        def forward(self, x: Tensor) -> Tensor | tuple[Tensor, None]:
            y = x + self.fc(x).relu()
            return (y, None) if self.wrap else y

    net = Tiny(
        lambda s, x: s.out(s.two(s.one(s.inp(x)))[0]),
        inp=nn.Linear(5, 8), one=Block(False), two=Block(True), out=nn.Linear(8, 2),
    )  # fmt: skip
    analysis = check(net, torch.randn(3, 5))
    cut: Any = sliced_copy(net, Slicing(analysis, {}, ["one", "two"]), "module")
    assert isinstance(cut.one, nn.Identity)
    assert isinstance(cut.two, Skip)
    assert cut.two(torch.ones(1))[1] is None


class Stack(nn.Module):
    """Blocks that share their norm, and a model that asks a block for its width."""

    def __init__(self) -> None:
        super().__init__()
        norm = nn.LayerNorm(8)
        self.blocks = nn.ModuleList([SharedNorm(norm) for _ in range(3)])
        self.embed, self.head = nn.Linear(5, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        first: Any = self.blocks[0]
        x = self.embed(x)
        for block in self.blocks:
            x = block(x)
        out: Tensor = self.head(x) / first.inner.in_features
        return out


class SharedNorm(nn.Module):
    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        self.norm, self.inner, self.outer = norm, nn.Linear(8, 12), nn.Linear(12, 8)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = x + self.outer(self.inner(self.norm(x)).relu())
        return out


def test_only_what_a_left_out_block_has_alone_is_left_out() -> None:
    net, x = Stack(), torch.randn(2, 7, 5)
    analysis = analyze(net, (x,))
    drop = [block.name for block in analysis.blocks][:1]  # the one under whose name the shared norm comes first
    assert drop == ["blocks.0"]
    stream = next(axis.name for axis in analysis.axes if axis.kind == "stream")
    asked: list[str] = []

    def supply(slicing: Slicing) -> Any:
        tensors = dict(net.named_parameters())

        def cut(name: str) -> Tensor:
            asked.append(name)
            return nn.Parameter(slicing.cut(name, tensors[name]))

        return cut

    form = ModuleForm(net, analysis)
    for keep in ({}, {stream: [6, 1, 2, 7]}, {stream: 4}):
        asked.clear()
        slicing = Slicing(analysis, keep, drop)
        small: Any = form.build(slicing, supply(slicing))
        assert "blocks.0.norm.weight" in asked
        assert not [name for name in asked if name.startswith(("blocks.0.inner", "blocks.0.outer"))]
        width = 4 if keep else 8
        assert small.blocks[0].inner.in_features == width
        assert small.blocks[1].norm.weight.shape == (width,)
        assert small.blocks[1].norm is small.blocks[2].norm
        assert {p.untyped_storage().nbytes() for p in small.blocks[1].inner.parameters()} != set()
        assert small(x).shape == (2, 7, 3)
    assert all(p.shape[-1] in (8, 12) for p in net.blocks[0].parameters()), "the full network is as it was"
