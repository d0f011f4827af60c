"""Blends of members against sums of slices set in zeros, made by hand, and against the members themselves."""

from __future__ import annotations

import random
from itertools import product
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pliant.checks import PliantError, VerificationError, WrongShapeError
from pliant.family import Family
from pliant.family.blend import Blend
from pliant.techniques.elastic.depth import Depth
from pliant.techniques.elastic.kernel_size import KernelSize
from pliant.techniques.elastic.width import Width
from tests.family.nets import ConvNet, FusedAttention, ViT, images, vectors


class Two(nn.Module):
    """``(B, 6) -> (B, 3)``; both hidden widths bend."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(6, 8), nn.Linear(8, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.c(torch.relu(self.b(torch.relu(self.a(x)))))


CASES: dict[str, Any] = {
    "mlp": (Two, (vectors(4, 6),), [Width(multiple=2)]),
    "vit": (ViT, (vectors(3, 4, 6),), [Width(multiple=4), Depth()]),
    "blocks one by one": (ViT, (vectors(3, 4, 6),), [Depth(per_block=True)]),
    "fused": (lambda: FusedAttention(16, 4), (vectors(3, 4, 16),), [Width(multiple=4)]),
    "convolutions": (ConvNet, (images(),), [Width(multiple=4), Depth(per_block=True)]),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_one_member_alone_is_that_member(name: str) -> None:
    make, args, choices = CASES[name]
    torch.manual_seed(0)
    family = Family(make(), args, choices)
    blend = Blend(family)
    family.model.train(name == "convolutions")  # by the batch's statistics: running ones are each member's own
    rng = random.Random(0)
    for config in (family.space.largest(), family.space.smallest(), *(family.space.sample(rng) for _ in range(4))):
        found = blend(blend.alone(config), *args)
        wanted = family.member(config)(*args)
        assert torch.allclose(found, wanted, atol=1e-5), config


def test_weights_are_sums_of_slices_set_in_zeros() -> None:
    """The paper's superposition, with the sum over all members written out."""
    torch.manual_seed(0)
    net, x = Two(), vectors(4, 6)
    family = Family(net, (x,), [Width(multiple=2)])
    blend = Blend(family)
    logits = {c.name: torch.randn(len(c.options)).requires_grad_() for c in family.space.choices}
    odds = {name: row.softmax(0) for name, row in logits.items()}
    first, second = (odds[f"{layer}.width"] for layer in ("a", "b"))
    options = family.space.choices[0].options
    total = {name: torch.zeros_like(p) for name, p in net.named_parameters()}
    for (i, wide), (j, next_wide) in product(enumerate(options), enumerate(options)):
        share = first[i] * second[j]
        ends = {"a.weight": (wide, 6), "a.bias": (wide,), "b.weight": (next_wide, wide), "b.bias": (next_wide,),
                "c.weight": (3, next_wide), "c.bias": (3,)}  # fmt: skip
        for name, end in ends.items():
            part = torch.zeros_like(total[name])
            place = tuple(slice(0, size) for size in end)
            part[place] = net.get_parameter(name).detach()[place]
            total[name] = total[name] + share * part
    h = torch.relu(F.linear(x, total["a.weight"], total["a.bias"]))
    h = torch.relu(F.linear(h, total["b.weight"], total["b.bias"]))
    wanted = F.linear(h, total["c.weight"], total["c.bias"])
    found = blend(odds, x)
    assert torch.allclose(found, wanted, atol=1e-6)
    left = torch.autograd.grad(found.square().sum(), list(logits.values()), retain_graph=True)
    right = torch.autograd.grad(wanted.square().sum(), list(logits.values()))
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(left, right, strict=True))


def test_gradients_reach_the_familys_weights_and_the_model_is_as_it_was() -> None:
    torch.manual_seed(0)
    x = vectors(3, 4, 6)
    family = Family(ViT(), (x,), [Width(multiple=4), Depth()])
    before = {name: value.clone() for name, value in family.model.state_dict().items()}
    wanted = family.model(x)
    blend = Blend(family)
    odds = {c.name: torch.full((len(c.options),), 1 / len(c.options)) for c in family.space.choices}
    blend(odds, x).square().sum().backward()
    assert all(p.grad is not None and p.grad.any() for p in family.model.parameters())
    assert torch.equal(family.model(x), wanted)
    assert all(torch.equal(before[name], value) for name, value in family.model.state_dict().items())


def test_what_cannot_be_blended_is_said() -> None:
    x = vectors(3, 4, 6)
    with pytest.raises(VerificationError, match="zeros do not stand"):
        Blend(Family(ViT(), (x,), [Width(multiple=4, kinds=("stream",))]))
    pictures: Any = images()
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(1, 4, 5, padding=2), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 64, 3))
    with pytest.raises(PliantError, match=r"'0\.kernel' does more than cut"):
        Blend(Family(net, (pictures,), [KernelSize()]))
    blend = Blend(Family(Two(), (vectors(4, 6),), [Width(multiple=2)]))
    with pytest.raises(WrongShapeError, match="missing"):
        blend({}, vectors(4, 6))
    with pytest.raises(WrongShapeError, match=r"4 options.*\(2,\)"):
        blend(dict.fromkeys(("a.width", "b.width"), torch.ones(2)), vectors(4, 6))
