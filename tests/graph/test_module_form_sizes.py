"""Where sizes may stand in a user's code, and what becomes of them in a smaller network of the user's class."""

from __future__ import annotations

import copy
import functools
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pliant.graph import analyze
from pliant.graph.realise import compare_forms, difference, outputs, sliced_copy
from pliant.graph.resized import writes_sizes
from pliant.graph.slicing import Slicing
from tests.graph.support import Tiny, check


@dataclass(frozen=True)
class Sizes:
    heads: int
    width: int


def _closure(heads: int, width: int) -> Any:
    return lambda h: h.view(-1, heads, width)


def _default(h: Tensor, heads: int = 3, width: int = 4) -> Tensor:
    return h.view(-1, heads, width)


def _plain(h: Tensor, heads: int, width: int) -> Tensor:
    return h.view(-1, heads, width)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("held", "use"),
    [
        ((3, 4), lambda s, h: h.view(-1, *s)),
        ([3, [4]], lambda s, h: h.view(-1, s[0], s[1][0])),
        ({"heads": 3, "width": 4}, lambda s, h: h.view(-1, s["heads"], s["width"])),
        (Sizes(3, 4), lambda s, h: h.view(-1, s.heads, s.width)),
        (SimpleNamespace(inner=SimpleNamespace(heads=3), width=4), lambda s, h: h.view(-1, s.inner.heads, s.width)),
        (torch.Size((3, 4)), lambda s, h: h.view(-1, *s)),
        (_closure(3, 4), lambda s, h: s(h)),
        (_default, lambda s, h: s(h)),
        (functools.partial(_plain, heads=3, width=4), lambda s, h: s(h)),
        (functools.partial(_plain, width=4), lambda s, h: s(h, 3)),
    ],
)
def test_sizes_are_found_wherever_they_are_kept(held: Any, use: Any) -> None:
    net = Tiny(
        lambda s, x: s.out(use(s.held, s.fc(x)).softmax(-1).flatten(1)),
        fc=nn.Linear(5, 12), out=nn.Linear(12, 2), held=held,
    )  # fmt: skip
    before = repr(held)
    analysis = check(net, torch.randn(4, 5), mask=False)
    assert sorted(axis.size for axis in analysis.axes) == [3, 4]
    assert repr(net.held) == before


class Old(nn.Module):
    """Attention that takes its inner width for that of its input."""

    heads = 4

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.inp, self.qkv = nn.Linear(5, width), nn.Linear(width, 3 * width)
        self.proj, self.out = nn.Linear(width, width), nn.Linear(width, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.inp(x)
        B, N, C = x.shape
        qkv = self.qkv(x).reshape(B, N, 3, self.heads, C // self.heads).permute(2, 0, 3, 1, 4)
        q, k, v = qkv.unbind(0)
        attn = (q * (C // self.heads) ** -0.5 @ k.transpose(-2, -1)).softmax(-1)
        return self.out(x + self.proj((attn @ v).transpose(1, 2).reshape(B, N, C))).mean(1)


def test_sizes_that_the_code_derives_wrongly_are_written_at_its_calls() -> None:
    net, x = Old(), torch.randn(3, 7, 5)
    analysis = check(net, x, mask=False)
    names = {axis.kind: axis.name for axis in analysis.axes}
    cut: Any = sliced_copy(net, Slicing(analysis, {names["heads"]: 3, names["stream"]: [9, 2, 5]}), "module")
    assert writes_sizes(cut)
    assert isinstance(cut, Old)
    assert type(cut).__qualname__ == "Old"
    assert cut.heads == 3
    assert Old.heads == 4
    longer = torch.randn(2, 11, 5)  # other lengths run as they do in the user's class
    want = cut(longer)
    assert torch.equal(copy.deepcopy(cut)(longer), want)
    assert difference([torch.compile(cut, backend="eager")(longer).detach()], [want.detach()]) < 1e-5
    program = torch.export.export(cut, (longer,), strict=False)
    assert difference([program.module()(longer).detach()], [want.detach()]) < 1e-5


def test_sizes_are_written_while_a_free_batch_is_captured() -> None:
    net, x = Old(), torch.randn(3, 7, 5)
    analysis = check(net, x, mask=False)
    names = {axis.kind: axis.name for axis in analysis.axes}
    cut: Any = sliced_copy(net, Slicing(analysis, {names["heads"]: 3, names["stream"]: [9, 2, 5]}), "module")
    free = torch.export.export(cut, (x,), dynamic_shapes=({0: torch.export.Dim("batch")},), strict=False)
    more = torch.randn(8, 7, 5)
    assert difference([free.module()(more).detach()], [cut(more).detach()]) < 1e-5


def test_where_the_code_stays_right_it_is_left_alone() -> None:
    net, x = Old(), torch.randn(3, 7, 5)
    analysis = analyze(net, (x,))
    names = {axis.kind: axis.name for axis in analysis.axes}
    # 8 = 2 heads x 4: what the class itself would be for a width of 8
    cut = sliced_copy(net, Slicing(analysis, {names["heads"]: [3, 1], names["stream"]: 8}), "module")
    assert not writes_sizes(cut)


def test_a_line_that_runs_several_times_gets_a_size_each_time() -> None:
    def forward(s: Tiny, x: Tensor) -> Tensor:
        parts = [layer(x) for layer in (s.a, s.b, s.a)]
        return s.out(torch.cat([h.view(-1, 2, 4).tanh().mean(2) for h in parts], 1))

    net = Tiny(forward, a=nn.Linear(5, 8), b=nn.Linear(5, 8), out=nn.Linear(6, 2))
    check(net, torch.randn(4, 5), mask=False)


@pytest.mark.parametrize("parts", [lambda h: h.chunk(2, -1), lambda h: torch.split(h, 4, dim=-1)])
def test_equal_parts_that_no_longer_are(parts: Any) -> None:
    net = Tiny(
        lambda s, x: s.a((y := parts(s.fc(x).relu()))[0]) + s.b(y[1]),
        fc=nn.Linear(5, 8), a=nn.Linear(4, 2), b=nn.Linear(4, 2),
    )  # fmt: skip
    analysis = check(net, torch.randn(3, 5))
    assert [axis.size for axis in analysis.axes] == [4, 4]


def test_places_to_split_at_follow_their_parts() -> None:
    def forward(s: Tiny, x: Tensor) -> Tensor:
        a, b, c = s.fc(x).relu().tensor_split((2, 5), dim=1)
        return s.a(a) + s.b(b) + s.c(c)

    net = Tiny(forward, fc=nn.Linear(5, 9), a=nn.Linear(2, 2), b=nn.Linear(3, 2), c=nn.Linear(4, 2))
    assert [axis.size for axis in check(net, torch.randn(3, 5)).axes] == [2, 3, 4]


def test_code_that_checks_its_sizes_runs_in_graph_form_and_the_reason_is_its_own() -> None:
    def forward(s: Tiny, x: Tensor) -> Tensor:
        h = s.fc(x)
        if h.shape[-1] != 8:
            raise ValueError("eight, please")
        return s.out(h.relu())

    net, x = Tiny(forward, fc=nn.Linear(5, 8), out=nn.Linear(8, 2)), torch.randn(3, 5)
    analysis = analyze(net, (x,))
    gap, _, error = compare_forms(net, Slicing(analysis, {analysis.axes[0].name: 3}), analysis)
    assert gap == float("inf")
    assert error == "ValueError: eight, please"


def test_the_comparison_notices_a_scale_that_hardly_shows() -> None:
    """With the small weights of a fresh transformer, scores are near zero and a wrong scale all but vanishes."""

    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.q, self.k, self.out, self.width = nn.Linear(6, 8), nn.Linear(6, 8), nn.Linear(6, 2), 8
            for layer in (self.q, self.k):
                nn.init.normal_(layer.weight, std=0.01)

        def forward(self, x: Tensor) -> Tensor:
            q = self.q(x).view(x.shape[0], -1, self.width)
            scale = 0.3 if self.width == 8 else 0.6  # no power of a size: the graph keeps 0.3
            return self.out((q @ self.k(x).mT * scale).softmax(-1) @ x)

    net, x = Scaled(), torch.randn(3, 7, 6)
    analysis = analyze(net, (x,))
    assert compare_forms(net, Slicing(analysis), analysis)[0] <= 1e-5
    assert compare_forms(net, Slicing(analysis, {analysis.axes[0].name: 4}), analysis)[0] > 1e-5
    assert outputs(net, (x,), {})[0].shape == (3, 7, 2)


class Kind(nn.Module):
    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind, self.fc = kind, nn.Linear(6, 6)

    def forward(self, x: Tensor, mask: Tensor) -> tuple[Tensor, None]:
        return x + self.fc(x) * mask, None


def test_the_code_around_a_block_may_ask_what_it_is_when_it_is_left_out() -> None:
    def forward(s: Tiny, x: Tensor) -> Tensor:
        masks = {"near": x.sum(1, keepdim=True), "far": x.mean(1, keepdim=True)}
        for layer in s.layers:
            x = layer(x, masks[layer.kind])[0]
        return x

    net, x = Tiny(forward, layers=nn.ModuleList([Kind("near"), Kind("far"), Kind("near")])), torch.randn(3, 6)
    analysis = analyze(net, (x,))
    assert len(analysis.blocks) == 3
    cut: Any = sliced_copy(net, Slicing(analysis, {}, [analysis.blocks[1].name]), "module")
    assert cut.layers[1].kind == "far"
    graph = sliced_copy(net, Slicing(analysis, {}, [analysis.blocks[1].name]), "graph")
    assert difference([cut(x).detach()], [graph(x).detach()]) < 1e-6


def test_it_may_ask_the_parts_of_a_block_too() -> None:
    """torch's own encoder reads an attribute of the attention of its first layer."""
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, dropout=0.0)
    net, x = nn.TransformerEncoder(layer, 3, enable_nested_tensor=False).eval(), torch.randn(2, 5, 8)
    analysis = analyze(net, (x,))
    first = Slicing(analysis, {}, [next(b.name for b in analysis.blocks if b.module == "layers.0")])
    assert compare_forms(net, first, analysis)[0] <= 1e-5


@pytest.mark.parametrize("kept", ["a", "b"])
def test_scales_follow_in_one_class_and_stay_in_another(kept: str) -> None:
    """One attention has its scale as a number, the other computes it of a size each time."""

    class Scaled(nn.Module):
        def __init__(self, kept: bool) -> None:
            super().__init__()
            self.q, self.k, self.scale = nn.Linear(5, 32), nn.Linear(5, 32), 8**-0.5 if kept else None

        def forward(self, x: Tensor) -> Tensor:
            q, k = (part(x).unflatten(-1, (4, -1)).transpose(1, 2) for part in (self.q, self.k))
            return 4 * q @ k.mT * (self.scale if self.scale is not None else q.shape[-1] ** -0.5)

    class Kept(Scaled):
        pass

    a, b = (Kept(True), Scaled(False)) if kept == "a" else (Scaled(False), Kept(True))
    net = Tiny(lambda s, x: s.a(x).softmax(-1) + s.b(x).softmax(-1), a=a, b=b)
    analysis = analyze(net, (torch.randn(2, 6, 5),))
    slicing = Slicing(analysis, {axis.name: [3, 1, 0] for axis in analysis.axes if axis.kind == "head_width"})
    gap, rescale, error = compare_forms(net, slicing, analysis)
    assert (rescale, error) == (True, "")
    assert gap <= 1e-5
