from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pliant.checks import WrongShapeError
from pliant.graph import analyze
from pliant.graph.realise import compare_forms, difference, outputs, sliced_copy
from pliant.graph.slicing import Slicing
from tests.graph.support import Tiny, check


def _graph(net: nn.Module, *args: Tensor) -> Any:
    analysis = analyze(net, args)
    return sliced_copy(net, Slicing(analysis, {a.name: a.size // 2 for a in analysis.axes}), "graph")


def test_names_of_parameters_and_buffers_are_the_original_ones() -> None:
    net = nn.Sequential(nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 2, 1))
    graph = _graph(net, torch.randn(2, 3, 4, 4))
    assert {n for n, _ in graph.named_parameters()} == {n for n, _ in net.named_parameters()}
    assert dict(graph.named_buffers())["1.running_mean"].shape == (4,)


@pytest.mark.parametrize("batch", [1, 2, 7])
def test_another_batch_size_works(batch: int) -> None:
    def forward(s: Tiny, x: Tensor) -> Tensor:
        B = x.shape[0]
        h = torch.cat([s.cls.expand(B, -1, -1), s.a(x)], 1)
        h = h.reshape(B * h.shape[1], -1)
        h = h.view(B, -1, h.shape[-1]) + torch.zeros(B, 1, 1)
        return s.b(h.mean(1))

    net = Tiny(forward, cls=nn.Parameter(torch.randn(1, 1, 8)), a=nn.Linear(5, 8), b=nn.Linear(8, 2))
    analysis = check(net, torch.randn(3, 4, 5))
    whole = sliced_copy(net, Slicing(analysis), "graph")
    x = torch.randn(batch, 4, 5)
    assert difference(outputs(whole, (x,), {}), outputs(net, (x,), {})) < 1e-6


def test_dropout_and_batch_norm_follow_the_mode() -> None:
    net = nn.Sequential(nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8), nn.Dropout(0.5), nn.Conv2d(8, 2, 1))
    x = torch.randn(4, 3, 6, 6)
    graph = _graph(net, x)
    one, two = outputs(graph, (x,), {}), outputs(graph, (x,), {})
    assert difference(one, two) == 0
    before = dict(graph.named_buffers())["1.running_mean"].clone()
    graph.train()
    with torch.no_grad():
        one, two = [graph(x)], [graph(x)]
    assert difference(one, two) > 1e-3
    assert not torch.equal(before, dict(graph.named_buffers())["1.running_mean"])
    graph.eval()
    assert difference(outputs(graph, (x,), {}), outputs(graph, (x,), {})) == 0


def test_instance_norm_with_statistics_follows_the_mode() -> None:
    net = nn.Sequential(nn.Conv2d(3, 8, 1), nn.InstanceNorm2d(8, affine=True, track_running_stats=True))
    x = torch.randn(4, 3, 6, 6)
    graph = _graph(net, x)
    evaluated = outputs(graph, (x,), {})
    assert difference(evaluated, outputs(graph.train(), (x,), {})) > 1e-3


def test_gradients_reach_the_weights_and_copies_are_apart() -> None:
    net = nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 2))
    x = torch.randn(3, 5)
    graph = _graph(net, x)
    twin = copy.deepcopy(graph)
    graph(x).sum().backward()
    assert all(p.grad is not None for p in graph.parameters())
    with torch.no_grad():
        next(graph.parameters()).zero_()
    assert difference(outputs(graph, (x,), {}), outputs(twin, (x,), {})) > 0


def test_other_arguments_are_refused_with_what_is_expected() -> None:
    graph = _graph(nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 2)), torch.randn(3, 5))
    with pytest.raises(WrongShapeError, match="call it with the same ones"):
        graph(torch.randn(3, 5), torch.randn(3, 5))


def test_constants_made_from_a_size_are_rescaled_on_demand() -> None:
    """`x / sqrt(width)` is a number in the graph; the user's class computes it anew, so the forms tell which it is."""

    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.q, self.k, self.head_dim = nn.Linear(5, 16), nn.Linear(5, 16), 16

        def forward(self, x: Tensor) -> Tensor:
            return torch.softmax(self.q(x) @ self.k(x).mT / self.q(x).shape[-1] ** 0.5, -1)

    net, x = Scaled().eval(), torch.randn(2, 4, 5)
    analysis = analyze(net, (x,))
    slicing = Slicing(analysis, {axis.name: 4 for axis in analysis.axes})
    gap, rescale, error = compare_forms(net, slicing, analysis)
    assert (rescale, error) == (True, "")
    assert gap <= 1e-5


def test_a_view_of_weights_that_lie_apart() -> None:
    """A member's weights are views of the family's: what the code views may not be contiguous any more."""
    net = Tiny(
        lambda s, x: s.b(F.linear(x, s.w.view(4, 2, 5).flatten(0, 1).mul(2)).relu()),
        w=nn.Parameter(torch.randn(8, 5)), b=nn.Linear(8, 2),
    )  # fmt: skip
    from pliant.graph.graph_form import build_graph_form
    from pliant.graph.tensors import full_tensors

    x = torch.randn(3, 5)
    analysis = analyze(net, (x,))
    tensors = full_tensors(net, analysis.capture)
    slicing = Slicing(analysis, {a.name: a.size // 2 for a in analysis.axes})

    def supply(name: str) -> Tensor:
        cut = slicing.cut(name, tensors[name].detach())
        return nn.Parameter(cut.t().contiguous().t() if cut.dim() == 2 else cut)

    apart: Any = build_graph_form(slicing, supply).eval()
    assert not apart.w.is_contiguous()
    plain = sliced_copy(net, slicing, "graph")
    assert difference(outputs(apart, (x,), {}), outputs(plain, (x,), {})) < 1e-6


@pytest.mark.parametrize("how", ["number", "split", "tensor", "fused", "merged"])
def test_scales_that_the_code_computes_from_a_width_follow_it(how: str) -> None:
    """The user's class computes them anew for a smaller width; the graph has them as numbers, tensors or arguments."""

    def forward(s: Tiny, x: Tensor) -> Tensor:
        q, k, v = (part(x).unflatten(-1, (4, -1)).transpose(1, 2) for part in (s.q, s.k, s.v))
        if how == "fused":
            y = F.scaled_dot_product_attention(q, k, v, scale=math.sqrt(1 / q.shape[-1]))
        elif how == "merged":
            q = (s.q(x) / math.sqrt(q.shape[-1])).unflatten(-1, (4, -1)).transpose(1, 2)
            y = torch.softmax(q @ k.mT, -1) @ v
        else:
            if how == "split":
                q, k = torch.cat([q, k], 1).chunk(2, 1)
            scale = math.sqrt(q.shape[-1]) if how != "tensor" else torch.sqrt(torch.tensor(float(q.shape[-1])) * 3)
            y = torch.softmax(q @ k.mT / scale, -1) @ v
        return s.out(y.transpose(1, 2).flatten(2))

    net = Tiny(forward, q=nn.Linear(5, 32), k=nn.Linear(5, 32), v=nn.Linear(5, 32), out=nn.Linear(32, 3))
    with torch.no_grad():
        for part in (net.q, net.k):
            part.weight.mul_(4)  # else the softmax is flat, and no scale shows
    x = torch.randn(2, 6, 5)
    analysis = analyze(net, (x,))
    width = next(axis for axis in analysis.axes if axis.kind == "head_width")
    slicing = Slicing(analysis, {width.name: [6, 1, 3]})
    own = outputs(sliced_copy(net, slicing, "module"), (x,), {})
    assert difference(outputs(sliced_copy(net, slicing, "graph", rescale=True), (x,), {}), own) < 1e-5
    assert difference(outputs(sliced_copy(net, slicing, "graph"), (x,), {}), own) > 1e-3
