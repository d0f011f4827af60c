"""Reordering units leaves the full network's function unchanged, and puts the important ones first."""

from __future__ import annotations

from random import Random
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import pliant
from pliant.checks import PliantError, UnknownNameError, WrongShapeError
from pliant.family import Family
from pliant.techniques.elastic.width import Width
from tests.family.nets import Branches, ConvNet, Gpt, HardCoded, TorchAttention, Twice, ViT, images, tokens, vectors

ALL = Width(multiple=4, kinds=("width", "heads", "stream", "head_width"))
CASES: dict[str, Any] = {
    "convnet": (ConvNet, images),
    "vit": (ViT, lambda: vectors(3, 4, 6)),
    "gpt": (Gpt, tokens),
    "branches": (Branches, lambda: vectors(4, 8)),
    "twice": (Twice, lambda: vectors(4, 8)),
    "hard-coded": (HardCoded, lambda: vectors(3, 4, 16)),
    "torch attention": (TorchAttention, lambda: vectors(3, 4, 16)),
}


def make(name: str) -> tuple[Any, Tensor]:
    kind, inputs = CASES[name]
    model, x = kind(), inputs()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):  # fresh ones are the same for every channel: they would hide a mistake
            assert module.running_mean is not None
            assert module.running_var is not None
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
            nn.init.normal_(module.weight, 1.0, 0.3)
            nn.init.normal_(module.bias)
    return Family(model.eval(), (x,), [ALL]), x


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_any_order_leaves_the_function_unchanged(name: str, rng: Random) -> None:
    family, x = make(name)
    before = family.model(x)
    orders = {axis.name: rng.sample(range(axis.size), axis.size) for axis in family.analysis.axes}
    family.permute(orders)
    assert torch.allclose(family.model(x), before, atol=1e-5)
    for config in (family.space.smallest(), family.space.sample(rng)):
        assert torch.equal(family.extract(config)(x), family.ready(config)(x))


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_preparing_sorts_once_and_leaves_the_function_unchanged(name: str) -> None:
    family, x = make(name)
    before = family.model(x)
    family.prepare()
    assert torch.allclose(family.model(x), before, atol=1e-5)
    state = {key: value.clone() for key, value in family.model.state_dict().items()}
    with torch.no_grad():
        for parameter in family.model.parameters():
            parameter.mul_(0.5)  # as training would change them
    family.prepare()
    assert all(torch.allclose(v, 0.5 * state[k]) for k, v in family.model.named_parameters())


def test_the_most_important_units_come_first() -> None:
    family, _ = make("twice")
    with torch.no_grad():
        scale = torch.randperm(16) + 1.0
        family.model.shared.weight.mul_(scale[:, None])
        family.model.out.weight.mul_(scale)
    family.prepare()
    rows = family.model.out.weight.abs().sum(0)
    assert rows[:4].mean() > rows[4:].mean()
    scores = sum(rows.abs().sum(1) / rows.abs().sum(1).mean() for rows in family.weight_views("first.width").values())
    assert isinstance(scores, Tensor)
    assert torch.equal(scores.argsort(descending=True, stable=True), torch.arange(16))


def test_units_are_sorted_by_an_order_of_ones_own() -> None:
    family, x = make("twice")
    before, rows = family.model(x), family.model.out.weight.detach().clone()
    order = torch.randperm(16).tolist()
    family.prepare({"first.width": order})
    assert torch.equal(family.model.out.weight, rows[:, order])
    assert torch.allclose(family.model(x), before, atol=1e-5)
    family.prepare()  # as training does: what was sorted stays
    assert torch.equal(family.model.out.weight, rows[:, order])
    with pytest.raises(PliantError, match="prepared already"):
        family.prepare({"first.width": order})


def test_units_stay_where_an_empty_order_says_so() -> None:
    family, _ = make("twice")
    before = {name: value.clone() for name, value in family.model.state_dict().items()}
    family.prepare({})
    family.prepare()  # done already
    assert all(torch.equal(value, before[name]) for name, value in family.model.state_dict().items())


def test_optimizer_and_views_survive() -> None:
    family, x = make("convnet")
    optimizer = torch.optim.SGD(family.parameters(), lr=0.1)
    family.prepare()
    config = family.space.smallest()
    before = family.member(config)(x).detach()
    family.member(config)(x).square().sum().backward()
    optimizer.step()
    assert not torch.allclose(family.member(config)(x), before)


def test_wrong_orders_are_refused() -> None:
    family, _ = make("branches")
    with pytest.raises(UnknownNameError, match=r"no axis named 'a.widht'; did you mean 'a.width'"):
        family.permute({"a.widht": list(range(16))})
    with pytest.raises(WrongShapeError, match="must be distinct"):
        family.permute({"a.width": [0] * 16})
    with pytest.raises(WrongShapeError):
        family.permute({"a.width": list(range(8))})


def test_what_meets_a_plain_tensor_attribute_is_kept_fixed() -> None:
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(8, 16), nn.Linear(16, 3)
            self.scale = torch.rand(16) + 0.5  # neither a parameter nor a buffer

        def forward(self, x: Tensor) -> Tensor:
            return self.b(torch.relu(self.a(x)) * self.scale)

    analysis = pliant.analyze(Scaled(), (vectors(4, 8),))
    assert not analysis.axes
    assert "a constant tensor that the code makes" in {str(fixed.reason) for fixed in analysis.fixed}
