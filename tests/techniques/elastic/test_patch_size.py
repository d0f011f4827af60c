"""Elastic patches: kernels against enlarged images, positions, and members of a vision transformer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pliant.checks import NoEffectWarning, PliantError, WrongShapeError
from pliant.family import Family
from pliant.measure import Macs, Params, PlannedMemory
from pliant.tasks.digits_vit import DigitsViT
from pliant.techniques.elastic.low_rank import LowRank
from pliant.techniques.elastic.patch_size import PatchSize, resized_kernel, resized_positions
from pliant.techniques.elastic.width import Width
from pliant.techniques.train.sandwich import Sandwich
from pliant.training import train
from tests.family.nets import images, vectors

X = vectors(2, 1, 8, 8)


class ClassToken(nn.Module):
    """``(B, 3, 12, 12) -> (B, 5)``: patches of 2x2 after a class token, positions of both."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.token = nn.Conv2d(3, 16, 2, stride=2), nn.Parameter(torch.randn(1, 1, 16))
        self.places, self.out = nn.Parameter(torch.randn(1, 37, 16)), nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(len(x), -1, -1), x], 1) + self.places
        return self.out(F.scaled_dot_product_attention(x, x, x)[:, 0])


def vit(*techniques: Any) -> Any:
    torch.manual_seed(0)
    net = DigitsViT(dim=16, depth=1, heads=2, head_dim=8, mlp_dim=32)
    return Family(net, (X,), [PatchSize(), *techniques])


def enlarged(image: Tensor, before: int, after: int) -> Tensor:
    """Enlarge every patch of an image by itself."""
    batch, channels, height, width = image.shape
    rows, columns = height // before, width // before
    patches = image.view(batch, channels, rows, before, columns, before).permute(0, 2, 4, 1, 3, 5).flatten(0, 2)
    patches = F.interpolate(patches, (after, after), mode="bilinear").view(batch, rows, columns, channels, after, after)
    return patches.permute(0, 3, 1, 4, 2, 5).reshape(batch, channels, rows * after, columns * after)


@pytest.mark.parametrize(("before", "after"), [(2, 4), (2, 8), (3, 5), (4, 6), (1, 3)])
def test_an_enlarged_patch_gives_the_same_token(before: int, after: int) -> None:
    image, weight = vectors(2, 3, 4 * before, 3 * before).double(), vectors(5, 3, before, before).double()
    wanted = F.conv2d(image, weight, stride=before)
    found = F.conv2d(enlarged(image, before, after), resized_kernel(weight, after), stride=after)
    assert torch.allclose(found, wanted, atol=1e-9)


def test_positions_are_resized_like_images_and_others_stay() -> None:
    columns = torch.arange(6.0).repeat(4, 1)
    table = torch.stack([columns, torch.ones(4, 6)], -1).view(1, 24, 2)
    table = torch.cat([torch.full((1, 1, 2), 9.0), table], 1)
    found = resized_positions(table, (4, 6), (2, 3))
    assert found.shape == (1, 7, 2)
    assert torch.equal(found[:, 0], table[:, 0])
    assert torch.allclose(found[0, 1:, 1], torch.ones(6))
    rows = found[0, 1:, 0].view(2, 3)
    assert torch.equal(rows[0], rows[1])
    assert float(rows[0, 1]) == pytest.approx(2.5)  # the middle stays the middle
    assert torch.equal(resized_positions(table[0], (4, 6), (4, 6)), table[0])


def test_the_largest_is_the_model_itself_and_members_are_built_by_hand() -> None:
    family = vit()
    assert {c.name: c.options for c in family.space.choices} == {"patches.patch": (8, 4, 2)}
    assert family.member(family.space.largest()) is family.model
    config = family.space.check({"patches.patch": 4})
    wanted = DigitsViT(dim=16, depth=1, heads=2, head_dim=8, mlp_dim=32, patch=4).eval()
    state = dict(family.model.state_dict())
    state["patches.weight"] = resized_kernel(state["patches.weight"], 4)
    state["positions"] = resized_positions(state["positions"], (4, 4), (2, 2))
    wanted.load_state_dict(state)
    member, alone = family.member(config).eval(), family.extract(config)
    assert torch.allclose(member(X), wanted(X), atol=1e-6)
    assert torch.allclose(alone(X), member(X), atol=1e-6)
    assert {n: p.shape for n, p in alone.named_parameters()} == {n: p.shape for n, p in wanted.named_parameters()}
    for objective in (Macs((X,)), PlannedMemory((X,)), Params()):
        smaller, full = objective.measure(family.ready(config)).value, objective.measure(family.model).value
        assert smaller < full or isinstance(objective, Params)  # kernels grow


def test_a_class_token_keeps_its_place() -> None:
    torch.manual_seed(0)
    x = vectors(2, 3, 12, 12)
    family = Family(ClassToken(), (x,), [PatchSize()])
    assert [c.options for c in family.space.choices] == [(4, 2)]
    net: Any = family.extract(family.space.smallest())
    assert net.places.shape == (1, 10, 16)
    assert torch.equal(net.places[:, 0], family.model.get_parameter("places")[:, 0])
    assert net(x).shape == (2, 5)


def test_gradients_reach_kernel_and_positions_and_it_trains_and_is_stored(tmp_path: Path) -> None:
    family = vit(Width(multiple=4), LowRank(multiple=2, per="network"))
    y, before = torch.tensor([0, 1]), family.model.get_parameter("positions").detach().clone()
    kernel = family.model.get_parameter("patches.weight").detach().clone()
    train(family, [(X, y)] * 3, F.cross_entropy, steps=3, recipe=Sandwich(between=1))
    assert not torch.equal(family.model.get_parameter("positions"), before)
    assert not torch.equal(family.model.get_parameter("patches.weight"), kernel)
    config = family.space.smallest()
    family.save(tmp_path)
    loaded = Family.load(tmp_path, DigitsViT(dim=16, depth=1, heads=2, head_dim=8, mlp_dim=32))
    assert torch.equal(loaded.extract(config)(X), family.extract(config)(X))


def test_what_cannot_change_its_patches_says_so() -> None:
    family = vit()
    family.form = "graph"
    with pytest.raises(PliantError, match="graphs of operations"):
        family.draft(family.space.smallest())
    for sizes in ((), (0,), (2.5,)):
        with pytest.raises(WrongShapeError, match="whole numbers"):
            PatchSize(sizes=sizes)  # type: ignore[arg-type]
    stem = nn.Sequential(nn.Conv2d(1, 4, 2, stride=2), nn.ReLU(), nn.Flatten(), nn.Linear(64, 2))  # no positions
    with pytest.warns(NoEffectWarning, match="nothing to bend"):
        Family(stem, (images(2),), [PatchSize()])
