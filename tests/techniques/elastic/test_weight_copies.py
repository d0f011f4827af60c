"""Copies of all weights: the same networks at first, each with gradients of its own, sliced, stored and extracted."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from pliant.checks import WrongShapeError
from pliant.family import Family
from pliant.techniques.elastic.depth import Depth
from pliant.techniques.elastic.weight_copies import WeightCopies
from pliant.techniques.elastic.width import Width
from pliant.training import TrainingStep
from tests.family.nets import ConvNet, Gpt, HardCoded, TorchAttention, ViT, images, tokens, vectors

X, Y = vectors(3, 4, 6), torch.tensor([0, 4, 2])


def made(net: Any, x: Tensor, **fields: Any) -> Family:
    torch.manual_seed(0)
    return Family(net, (x,), [WeightCopies(**fields), *bending(net)])


def bending(net: Any) -> list[Any]:
    return [Width(multiple=8), Depth()] if hasattr(net, "blocks") else [Width(multiple=8)]


def stirred(family: Family, seed: int = 1) -> Family:
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for value in family.extra.values():
            value.add_(0.1 * torch.randn(value.shape, generator=draw))
    return family


def test_one_copy_is_plain_sharing() -> None:
    family = made(ViT(), X, copies=1)
    assert not family.extra
    assert not [choice for choice in family.space.choices if choice.name == "copy"]


def test_before_training_all_copies_are_the_network_even_where_units_were_sorted() -> None:
    family = made(ViT(), X, copies=3)
    assert family.space.largest()["copy"] == 0
    assert family.member(family.space.largest()) is family.model
    family.prepare()
    rng = random.Random(0)
    for config in (family.space.largest(), family.space.smallest(), family.space.sample(rng)):
        rows = [family.member({**config, "copy": at})(X) for at in range(3)]
        assert torch.equal(rows[0], rows[1])
        assert torch.equal(rows[0], rows[2])


NETS = [(ViT, X), (ConvNet, images()), (Gpt, tokens()), (TorchAttention, vectors(3, 4, 16)),
        (HardCoded, vectors(3, 4, 16))]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize(("net", "x"), NETS)
def test_a_copys_members_are_those_of_a_family_with_its_weights(net: Any, x: Tensor) -> None:
    family, twin = stirred(made(net(), x)), net()
    twin.load_state_dict(family.model.state_dict())
    with torch.no_grad():
        for name, parameter in twin.named_parameters():
            parameter.copy_(family.extra[f"copy1/{name}"])
    plain = Family(twin, (x,), bending(twin))
    for config in (plain.space.largest(), plain.space.smallest()):
        wanted = plain.ready(config)(x)
        member = family.ready({**config, "copy": 1})
        assert torch.allclose(member(x), wanted, atol=1e-6)
        alone = family.extract({**config, "copy": 1})
        assert torch.allclose(alone(x), wanted, atol=1e-6)
        assert not [name for name, _ in alone.named_parameters() if "parametrizations" in name]


def test_gradients_stay_in_their_copy_and_are_those_of_plain_autograd() -> None:
    family, twin = stirred(made(ViT(), X, copies=3)), ViT()
    small = {**family.space.smallest(), "copy": 2}
    with torch.no_grad():
        for name, parameter in twin.named_parameters():
            parameter.copy_(family.extra[f"copy2/{name}"])
    plain = Family(twin, (X,), [Width(multiple=8), Depth()])
    TrainingStep(family, (X, Y), F.cross_entropy).learn(family.space.check(small))
    small.pop("copy")
    TrainingStep(plain, (X, Y), F.cross_entropy).learn(plain.space.check(small))
    learnt = 0
    for name, parameter in plain.model.named_parameters():
        assert family.extra[f"copy1/{name}"].grad is None
        own, found = family.model.get_parameter(name).grad, family.extra[f"copy2/{name}"].grad
        assert own is None or not own.any()
        if parameter.grad is not None and parameter.grad.any():
            assert found is not None
            assert torch.allclose(found, parameter.grad, atol=1e-6), name
            learnt += 1
    assert learnt > 10


@pytest.mark.slow
def test_it_is_stored(tmp_path: Path) -> None:
    family = stirred(made(ViT(), X))
    family.save(tmp_path)
    loaded = Family.load(tmp_path, ViT())
    config = {**family.space.smallest(), "copy": 1}
    assert torch.equal(loaded.extract(config)(X), family.extract(config)(X))


def test_wrong_fields() -> None:
    for copies in (0, -1, 1.5):
        with pytest.raises(WrongShapeError, match=r"WeightCopies\.copies"):
            WeightCopies(copies=copies)  # type: ignore[arg-type]
