"""Mixtures of weights against mixtures of whole experts made by hand, and through training and storage."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pliant.checks import NoEffectWarning, WrongShapeError
from pliant.family import Family, at
from pliant.techniques.elastic.depth import Depth
from pliant.techniques.elastic.kernel_size import KernelSize
from pliant.techniques.elastic.mixture_of_supernets import MixtureOfSupernets, encoded
from pliant.techniques.elastic.width import Width
from pliant.techniques.train.sandwich import Sandwich
from pliant.training import TrainingStep, train
from tests.family.nets import FusedAttention, ViT, vectors

X, Y = vectors(3, 4, 6), torch.tensor([0, 4, 2])


def vit(**fields: Any) -> Family:
    torch.manual_seed(0)
    return Family(ViT(), (X,), [Width(multiple=4), Depth(), MixtureOfSupernets(**fields)])


def stirred(family: Family) -> Family:
    """Return the family with experts that differ."""
    draw = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, value in family.extra.items():
            if "expert" in name:
                value.copy_(0.2 * torch.randn(value.shape, generator=draw))
    return family


def test_one_expert_is_plain_sharing() -> None:
    family, plain = vit(experts=1), Family(ViT(), (X,), [Width(multiple=4), Depth()])
    assert not family.extra
    plain.model.load_state_dict(family.model.state_dict())
    assert family.member(family.space.largest()) is family.model
    config = family.space.smallest()
    assert torch.equal(family.member(config)(X), plain.member(config)(X))


@pytest.mark.slow
@pytest.mark.parametrize("per_unit", [False, True])
def test_before_training_every_member_is_what_it_was(per_unit: bool) -> None:
    family = vit(per_unit=per_unit)
    plain = Family(family.model, (X,), [Width(multiple=4), Depth()])
    rng = random.Random(0)
    for config in (family.space.largest(), family.space.smallest(), family.space.sample(rng)):
        assert torch.equal(family.member(config)(X), plain.member(config)(X))


@pytest.mark.slow
@pytest.mark.parametrize("per_unit", [False, True])
def test_members_are_slices_of_mixtures_of_whole_experts(per_unit: bool) -> None:
    family = stirred(vit(per_unit=per_unit, experts=3))
    extra, rng = family.extra, random.Random(0)
    for config in (family.space.largest(), family.space.smallest(), family.space.sample(rng)):
        told = encoded(family.draft(config))
        hidden = torch.relu(extra["router.weight"] @ told + extra["router.bias"])
        twin = ViT()
        twin.load_state_dict(family.model.state_dict())
        with torch.no_grad():
            for name, weight in twin.named_parameters():
                if f"{name}.router" not in extra:
                    continue
                experts = torch.stack([family.model.get_parameter(name) + extra[f"{name}.expert{i}"] for i in range(3)])
                shares = (extra[f"{name}.router"] @ hidden).view(-1, 3).softmax(1)  # (1 or units, experts)
                weight.copy_(torch.stack([sum_of(experts[:, unit], shares[unit % len(shares)])
                                          for unit in range(len(weight))]))  # fmt: skip
        wanted = Family(twin, (X,), [Width(multiple=4), Depth()]).extract(config)(X)
        member = family.member(config).eval()
        assert torch.allclose(member(X), wanted, atol=1e-5)
        alone: Any = family.extract(config)
        assert torch.allclose(alone(X), member(X), atol=1e-6)
        assert not [name for name, _ in alone.named_parameters() if "parametrizations" in name]


def sum_of(experts: Tensor, shares: Tensor) -> Tensor:
    return torch.stack([share * expert for share, expert in zip(shares, experts, strict=True)]).sum(0)


@pytest.mark.parametrize("per_unit", [False, True])
def test_gradients_are_those_of_plain_autograd(per_unit: bool) -> None:
    torch.manual_seed(0)
    x, y = vectors(3, 4, 16), vectors(3, 4, 16, seed=9)
    family = stirred(Family(FusedAttention(16, 4), (x,), [Width(multiple=4), MixtureOfSupernets(per_unit=per_unit)]))
    config = family.space.smallest()  # its slices of the fused projection are gathered
    twins = {n: nn.Parameter(p.detach().clone()) for n, p in family.extra.items()}
    net: Any = family.model
    own = {n: nn.Parameter(p.detach().clone()) for n, p in net.named_parameters()}
    hidden = torch.relu(twins["router.weight"] @ encoded(family.draft(config)) + twins["router.bias"])
    slicing = family.draft(config).slicing()
    mixed: dict[str, Tensor] = {}
    for name, weight in own.items():
        mixed[name] = weight
        if f"{name}.router" in twins:
            shares = (twins[f"{name}.router"] @ hidden).view(-1, 2).softmax(1)
            mixed[name] = weight + sum(shares[:, i, None] * twins[f"{name}.expert{i}"] for i in range(2))
        mixed[name] = slicing.cut(name, mixed[name])
    alone = Family(net, (x,), [Width(multiple=4)]).extract(config)
    torch.func.functional_call(alone, mixed, (x,)).sub(y).square().mean().backward()
    turn = TrainingStep(family, (x, y), lambda outputs, targets: (outputs - targets).square().mean())
    turn.learn(config)
    for name, twin in (twins | own).items():
        found = family.extra[name].grad if name in twins else net.get_parameter(name).grad
        assert twin.grad is not None
        assert found is not None, name
        assert torch.allclose(found, twin.grad, atol=1e-6), name


@pytest.mark.slow
def test_it_trains_its_router_tells_members_apart_and_it_is_stored(tmp_path: Path) -> None:
    family = vit()
    train(family, [(X, Y)] * 12, F.cross_entropy, steps=12, recipe=Sandwich(),
          optimizer=torch.optim.AdamW(family.parameters(), lr=0.01), folder=tmp_path / "run", save_every=6)  # fmt: skip
    name = next(name for name in family.extra if name.endswith("expert0"))
    first, second = family.extra[name], family.extra[name.replace("expert0", "expert1")]
    assert not torch.equal(first, second)
    small, large = family.space.smallest(), family.space.largest()
    hidden = [torch.relu(family.extra["router.weight"] @ encoded(family.draft(c)) + family.extra["router.bias"])
              for c in (small, large)]  # fmt: skip
    router = family.extra[name.replace("expert0", "router")]
    assert not torch.allclose((router @ hidden[0]).softmax(0), (router @ hidden[1]).softmax(0), atol=1e-3)
    family.save(tmp_path / "family")
    loaded = Family.load(tmp_path / "family", ViT())
    assert torch.equal(loaded.extract(small)(X), family.extract(small)(X))
    again = vit()
    train(again, [(X, Y)] * 12, F.cross_entropy, steps=12, recipe=Sandwich(),
          optimizer=torch.optim.AdamW(again.parameters(), lr=0.01), folder=tmp_path / "run")  # fmt: skip
    assert torch.equal(again.extract(small)(X), family.extract(small)(X))


def test_it_comes_before_kernels_are_cut() -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 1, 8, 8)
    net = nn.Sequential(nn.Conv2d(1, 4, 5, padding=2), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 64, 3))
    family = stirred(Family(net, (x,), [KernelSize(), MixtureOfSupernets()]))
    member = family.member(family.space.smallest()).eval()
    assert torch.allclose(family.extract(family.space.smallest())(x), member(x), atol=1e-6)
    conv: Any = family.extract(family.space.smallest()).get_submodule("0")
    assert conv.weight.shape == (4, 1, 3, 3)


def test_a_part_of_the_network_and_wrong_fields() -> None:
    torch.manual_seed(0)
    family = Family(ViT(), (X,), [Width(multiple=4), at("blocks.0*", MixtureOfSupernets())])
    assert {name.split(".")[1] for name in family.extra if name.startswith("blocks")} == {"0"}
    with pytest.raises(WrongShapeError, match="experts >= 1"):
        MixtureOfSupernets(experts=0)
    with pytest.warns(NoEffectWarning, match="nothing"):
        Family(nn.Sequential(nn.ReLU()), (X,), [Width(), MixtureOfSupernets()])
