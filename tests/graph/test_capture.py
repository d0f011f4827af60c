from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from pliant.checks import CaptureError, WrongShapeError
from pliant.graph import analyze
from pliant.graph.capture import capture
from pliant.graph.realise import difference, outputs, sliced_copy
from pliant.graph.slicing import Slicing
from tests.graph.support import Tiny, check, sizes


class Branching(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(5, 8)

    def forward(self, x: Tensor) -> Tensor:
        if x.sum() > 0:  # the line that the message must show
            return self.a(x)
        return x


def test_control_flow_on_data_names_the_module_and_the_line() -> None:
    net = nn.Sequential(nn.Linear(5, 5), Branching())
    net[0].train()
    net.eval()
    net[0].train()
    with pytest.raises(CaptureError) as caught:
        capture(net, (torch.randn(2, 5),))
    message = str(caught.value)
    assert "module '1'" in message
    assert "if x.sum() > 0" in message
    assert "torch.where or torch.cond" in message
    assert net[0].training, "the modes are restored after an error"
    assert not net[1].training


def test_examples_that_do_not_fit_are_shown_with_their_shapes() -> None:
    net = nn.Sequential(nn.Linear(5, 8), nn.ReLU()).train()
    with pytest.raises(WrongShapeError) as caught:
        capture(net, (torch.randn(2, 6),))
    message = str(caught.value)
    assert "(2, 6)" in message
    assert "module '0'" in message
    assert "give arguments" in message
    assert net.training
    assert all(m.training for m in net)
    with pytest.raises(WrongShapeError, match="missing"):
        capture(net, ())


def test_hooks_and_modes_are_left_as_they_were() -> None:
    net = nn.Sequential(nn.Linear(5, 8), nn.Dropout(), nn.Linear(8, 2))
    net[1].eval()
    capture(net, (torch.randn(2, 5),))
    assert [m.training for m in net] == [True, False, True]
    assert not any(m._forward_hooks for m in net.modules())


def test_a_single_tensor_may_stand_for_the_arguments() -> None:
    example: Any = torch.randn(2, 5)
    assert len(capture(nn.Linear(5, 2), example).args) == 1


@dataclass
class Result:
    scores: Tensor
    extra: dict[str, Tensor]


pytree.register_dataclass(Result)


def test_keyword_arguments_and_nested_outputs() -> None:
    def forward(s: Tiny, x: Tensor, *, gain: Tensor, mode: str = "plain") -> Result:
        h = s.a(x).relu()
        return Result(s.b(h) * gain, {"sum": h.sum(-1)})

    net = Tiny(forward, a=nn.Linear(5, 8), b=nn.Linear(8, 2))
    kwargs = {"gain": torch.rand(3, 1), "mode": "plain"}
    analysis = check(net, torch.randn(3, 5), kwargs=kwargs)
    assert sizes(analysis) == [8]
    graph = sliced_copy(net, Slicing(analysis, {analysis.axes[0].name: 3}), "graph")
    result = graph(torch.randn(3, 5), mode="plain", gain=torch.ones(3, 1))
    assert isinstance(result, Result)
    assert result.extra["sum"].shape == (3,)
    with pytest.raises(WrongShapeError, match="captured with arguments"):
        graph(torch.randn(3, 5))


def test_a_network_without_weights_can_be_analysed() -> None:
    def build() -> nn.Module:
        return nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(1, 3), nn.Linear(8 * 16, 4))

    with torch.device("meta"):
        empty, x = build(), torch.randn(2, 3, 6, 6)
    analysis = analyze(empty, (x,))
    real = analyze(build(), (torch.randn(2, 3, 6, 6),))
    assert [(a.name, a.size) for a in analysis.axes] == [(a.name, a.size) for a in real.axes]
    assert all(p.is_meta for p in empty.parameters())


def test_regions_are_opened_and_the_gradient_mode_is_restored() -> None:
    def forward(s: Tiny, x: Tensor) -> Tensor:
        with torch.no_grad():
            gate = s.g(x).sigmoid()
        h = s.a(x) * gate
        with torch.autocast("cpu", enabled=False):
            h = h.float() * 2
        return s.b(h)

    net = Tiny(forward, a=nn.Linear(5, 8), g=nn.Linear(5, 8), b=nn.Linear(8, 2))
    x = torch.randn(3, 5)
    analysis = check(net, x)
    assert sizes(analysis) == [8]
    graph: Any = sliced_copy(net, Slicing(analysis, {analysis.axes[0].name: 4}), "graph")
    graph(x).sum().backward()
    assert torch.is_grad_enabled()
    assert graph.a.weight.grad is not None
    assert graph.g.weight.grad is None, "what ran without gradients has none"
    with torch.no_grad():
        assert not graph(x).requires_grad
        assert not torch.is_grad_enabled()


def test_a_module_with_two_names() -> None:
    layer = nn.Linear(8, 8)
    net = Tiny(lambda s, x: s.out(s.one(s.two(s.a(x)).relu()).relu()), a=nn.Linear(5, 8), out=nn.Linear(8, 2))
    net.one, net.two = layer, layer
    analysis = check(net, torch.randn(3, 5))
    assert sizes(analysis) == [8]
    assert analysis.capture.calls["one"].calls == 2


def test_a_tied_parameter_has_one_canonical_name() -> None:
    net = Tiny(lambda s, x: s.b(s.a(x).relu()).relu(), a=nn.Linear(6, 6), b=nn.Linear(6, 6))
    net.b.weight = net.a.weight
    captured = capture(net, (torch.randn(2, 6),))
    assert captured.aliases["b.weight"] == "a.weight"


def test_a_size_that_depends_on_data_is_kept() -> None:
    def forward(s: Tiny, x: Tensor) -> Tensor:
        h = s.a(x).relu()
        return s.b(h[h.sum(-1) > 1e9].sum(0, keepdim=True) + h)

    net = Tiny(forward, a=nn.Linear(5, 8), b=nn.Linear(8, 2)).eval()
    x = torch.randn(3, 5)
    analysis = analyze(net, (x,))
    assert sizes(analysis) == []
    assert any("depends on the data" in str(f.reason) for f in analysis.fixed)
    whole = sliced_copy(net, Slicing(analysis), "graph")
    assert difference(outputs(whole, (x,), {}), outputs(net, (x,), {})) < 1e-6
