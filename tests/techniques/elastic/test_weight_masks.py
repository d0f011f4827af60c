"""Masks: nothing at first; then members are those of a network with zeros, and hidden weights still learn."""

from __future__ import annotations

import random
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from pliant.checks import WrongShapeError
from pliant.family import Family
from pliant.techniques.elastic.depth import Depth
from pliant.techniques.elastic.kernel_size import KernelSize
from pliant.techniques.elastic.weight_masks import WeightMasks
from pliant.techniques.elastic.width import Width
from pliant.training import TrainingStep
from tests.family.nets import ConvNet, Gpt, HardCoded, ViT, images, tokens, vectors

X, Y = vectors(3, 4, 6), torch.tensor([0, 4, 2])


def bending(net: Any) -> list[Any]:
    return [Width(multiple=8), Depth()] if hasattr(net, "blocks") else [Width(multiple=8)]


def made(net: Any, x: Tensor, **fields: Any) -> Family:
    return Family(net, (x,), [*bending(net), WeightMasks(**fields)])


def hide(family: Family, share: float = 0.5) -> None:
    draw = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, mask in family.extra.items():
            assert name.startswith("mask/")
            mask.copy_((torch.rand(mask.shape, generator=draw) >= share).float())


def zeroed(family: Family, net: Any) -> Any:
    """A network of the family's weights, with zeros where they are hidden."""
    net.load_state_dict(family.model.state_dict())
    with torch.no_grad():
        for name, mask in family.extra.items():
            net.get_parameter(name.removeprefix("mask/")).mul_(mask)
    return net


NETS = [(ViT, X), (ConvNet, images()), (Gpt, tokens()), (partial(HardCoded, strict=True), vectors(3, 4, 16))]


@pytest.mark.slow
@pytest.mark.parametrize(("net", "x"), NETS)
def test_members_are_those_of_a_network_with_zeros(net: Any, x: Tensor) -> None:
    family = made(net().eval(), x)
    assert torch.equal(family.ready(family.space.largest())(x), family.model(x))  # bit for bit, while all is shown
    hide(family)
    plain = Family(zeroed(family, net().eval()), (x,), bending(net()))
    for config in (plain.space.largest(), plain.space.smallest(), plain.space.sample(random.Random(0))):
        wanted, alone = plain.ready(config)(x), family.extract(config)
        assert torch.allclose(family.ready(config)(x), wanted, atol=1e-6)
        assert torch.allclose(alone(x), wanted, atol=1e-6)
        for name, weight in plain.extract(config).named_parameters():
            assert torch.equal(alone.get_parameter(name) == 0, weight == 0), name


def test_a_weight_that_is_an_embedding_too_has_no_mask() -> None:
    names = set(made(Gpt(), tokens()).extra)
    assert "mask/blocks.0.fc1.weight" in names
    assert not names & {"mask/embed.weight", "mask/head.weight", "mask/blocks.0.norm1.weight", "mask/blocks.0.fc1.bias"}


@pytest.mark.parametrize("through", [True, False])
def test_gradients_are_those_of_the_network_with_zeros(through: bool) -> None:
    family = made(ViT(), X, through=through)
    hide(family)
    twin = zeroed(family, ViT())
    F.cross_entropy(twin(X), Y).backward()
    TrainingStep(family, (X, Y), F.cross_entropy).learn(family.space.largest())
    for name, parameter in twin.named_parameters():
        found, wanted = family.model.get_parameter(name).grad, parameter.grad
        assert found is not None
        assert wanted is not None
        if (mask := family.extra.get(f"mask/{name}")) is not None:
            assert mask.grad is None
            wanted = wanted if through else wanted * mask
        assert torch.allclose(found, wanted, atol=1e-6), name


def test_they_are_stored(tmp_path: Path) -> None:
    family = made(ViT(), X)
    hide(family)
    family.save(tmp_path)
    loaded = Family.load(tmp_path, ViT())
    assert torch.equal(loaded.extract(loaded.space.smallest())(X), family.extract(family.space.smallest())(X))


def test_a_weight_of_another_shape_is_refused() -> None:
    family = Family(ConvNet(), (images(),), [WeightMasks(), KernelSize(sizes=(1,))])
    with pytest.raises(WrongShapeError, match=r"the mask of .* is of shape .*pliant\.at"):
        family.ready(family.space.smallest())(images())
