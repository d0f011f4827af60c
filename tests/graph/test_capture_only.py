"""Working on one submodule of a model that cannot be captured whole."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import pliant
from pliant.checks import CaptureError, UnknownNameError
from pliant.graph import Analysis, analyze
from pliant.graph.realise import compare_forms, difference, outputs, sliced_copy
from pliant.graph.slicing import Slicing
from tests.graph import support

KINDS = ("width", "heads", "stream", "head_width", "group")


class Body(nn.Module):
    """A residual convolutional network with normalisation."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.blocks = nn.ModuleList(Step() for _ in range(2))
        self.out = nn.Conv2d(8, 6, 1)

    def forward(self, x: Tensor, scale: float = 1.0) -> Tensor:
        x = self.stem(x) * scale
        for block in self.blocks:
            x = block(x)
        return self.out(x)


class Step(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.up, self.norm, self.down = nn.Conv2d(8, 12, 1), nn.BatchNorm2d(12), nn.Conv2d(12, 8, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.down(F.relu(self.norm(self.up(x))))


class Detector(nn.Module):
    """Its head loops over what it found in the data, so the whole cannot be captured."""

    def __init__(self) -> None:
        super().__init__()
        self.before = nn.BatchNorm2d(3)
        self.features = nn.ModuleDict({"body": Body()})
        self.head = nn.Sequential(nn.Linear(6, 10), nn.ReLU(), nn.Linear(10, 2))

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        maps = self.features["body"](self.before(x), scale=0.5)
        found = maps.mean((2, 3))
        for _ in range(int((found > 0).sum()) % 2 + 1):
            found = found + 1
        return {"scores": self.head(found)}


def make() -> tuple[Detector, Tensor]:
    torch.manual_seed(4)
    net = Detector()
    support.randomise(net)
    return net, torch.randn(2, 3, 6, 6)


def test_the_error_offers_the_part_and_the_part_works() -> None:
    net, x = make()
    with pytest.raises(CaptureError, match="only='features.body' works, which holds 8"):
        analyze(net, (x,))


def check_part(net: nn.Module, args: tuple[Any, ...], analysis: Analysis) -> None:
    """Assert the identities for the whole model with a smaller part."""
    rng, base = random.Random(2), outputs(net, args, {})
    whole = Slicing(analysis)
    for form in ("module", "graph"):
        assert difference(outputs(sliced_copy(net, whole, form), args, {}), base) <= 1e-6
        turned = sliced_copy(net, Slicing(analysis, support.permutation(analysis, rng)), form)
        assert difference(outputs(turned, args, {}), base) <= 1e-5
    cut = Slicing(analysis, support.half(analysis, rng))
    masked = outputs(support.masked(net, cut), args, {})
    for form in ("module", "graph"):
        small = sliced_copy(net, cut, form)
        assert difference(outputs(small, args, {}), masked) <= 1e-5
        names = dict(net.named_parameters(remove_duplicate=False))
        assert all(name in names for name, _ in small.named_parameters())
    drop = [block.name for block in analysis.blocks][:1]
    gap, _, error = compare_forms(net, Slicing(analysis, support.half(analysis, rng), drop), analysis)
    assert gap <= 1e-5, error


def test_a_part_bends_and_has_the_names_of_the_whole() -> None:
    net, x = make()
    analysis = analyze(net, (x,), only="features.body")
    assert support.sizes(analysis) == [8, 12, 12]
    assert all(axis.name.startswith("features.body") for axis in analysis.axes)
    assert [block.name for block in analysis.blocks] == ["features.body.blocks.0", "features.body.blocks.1"]
    assert analysis.capture.scope.only == "features.body"
    check_part(net, (x,), analysis)
    small = sliced_copy(net, Slicing(analysis, support.half(analysis, random.Random(1))), "graph")
    larger = torch.randn(5, 3, 6, 6)
    assert outputs(small, (larger,), {})[0].shape == (5, 2), "the batch is free"


@pytest.mark.parametrize("form", ["module", "graph"])
def test_a_family_of_a_part(form: str, tmp_path: Path) -> None:
    net, x = make()
    family = pliant.Family(net, (x,), [pliant.Width(multiple=1, kinds=KINDS), pliant.Depth()], only="features.body")
    assert family.form == "module"
    family.form = form  # the other one must work as well
    small = family.space.smallest()
    member = family.member(small).train()
    statistics = net.get_buffer("before.running_mean").clone()
    member(x)["scores"].sum().backward()
    assert net.head[0].weight.grad is not None, "the rest of the model is shared too"
    assert net.features["body"].get_parameter("stem.weight").grad is not None
    family.calibrate_with([(x, None), (torch.randn_like(x), None)])
    extracted = family.extract(small)
    with torch.no_grad():
        assert difference([extracted(x)["scores"]], [family.ready(small)(x)["scores"]]) == 0
        torch.testing.assert_close(
            net.get_buffer("before.running_mean"), statistics, rtol=0, atol=0
        )  # members have their own
    assert sum(p.numel() for p in extracted.parameters()) < sum(p.numel() for p in net.parameters())
    assert type(extracted) is Detector
    family.save(tmp_path / "family")
    again = pliant.Family.load(tmp_path / "family", Detector())
    assert again.analysis.capture.scope.only == "features.body"
    assert again.space.digest == family.space.digest


class Inside(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.emb, self.up, self.down, self.out = (
            nn.Embedding(9, 8),
            nn.Linear(8, 12),
            nn.Linear(12, 16),
            nn.Linear(16, 8),
        )

    def forward(self, i: Tensor) -> Tensor:
        return self.out(self.down(self.up(self.emb(i)).relu()))


class Shared(nn.Module):
    """The rest of the model uses parts of the body: a tied weight, a weight that it reads, and questions about one."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.tied = Inside(), nn.Linear(8, 9, bias=False)
        self.tied.weight = self.body.emb.weight

    def forward(self, i: Tensor) -> Tensor:
        h = self.body(i)
        assert self.body.up.weight.dtype == h.dtype  # a question that no cut changes
        return self.tied(h) + F.linear(h.new_ones((*h.shape[:-1], 16)), self.body.out.weight).mean(-1, keepdim=True)


def test_what_the_rest_uses_is_kept() -> None:
    torch.manual_seed(0)
    net, i = Shared().eval(), torch.randint(0, 9, (3, 4))
    analysis = analyze(net, (i,), only="body")
    assert support.sizes(analysis) == [12]
    why = " ".join(str(fixed.reason) for fixed in analysis.fixed)
    assert "the rest of the model uses it outside 'body'" in why
    assert "the rest of the model has it too" in why
    check_part(net, (i,), analysis)


def test_parts_that_are_not_there_or_not_called() -> None:
    net, x = make()
    with pytest.raises(UnknownNameError, match=r"did you mean 'features.body'"):
        analyze(net, (x,), only="feature.body")
    with pytest.raises(CaptureError, match="'features' is never called"):
        analyze(net, (x,), only="features")
    with pytest.raises(UnknownNameError, match="no submodule"):
        analyze(net, (x,), only="")


def test_a_part_that_is_called_twice_has_the_inputs_of_its_first_call() -> None:
    net = support.Tiny(
        lambda s, x: s.head(s.body(s.body(x) * 2)),
        body=nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 4)),
        head=nn.Linear(4, 2),
    )
    x = torch.randn(3, 4)
    analysis = analyze(net.eval(), (x,), only="body")
    assert support.sizes(analysis) == [8]
    check_part(net, (x,), analysis)


def test_a_part_that_cannot_be_captured_says_so() -> None:
    net, x = make()
    with pytest.raises(CaptureError, match="values of tensors"):
        analyze(nn.Sequential(net), (x,), only="0")
