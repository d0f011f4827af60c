"""Elastic depth: which blocks go, in which order, and that shallower members are nested in deeper ones."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pliant.checks import UnknownNameError, WrongShapeError
from pliant.family import Family
from pliant.space import Config
from pliant.techniques.elastic.depth import Depth
from pliant.techniques.elastic.width import Width
from tests.family.nets import ConvNet, Layer, ViT, images, vectors

X = vectors(3, 4, 6)


def family_of(depth: Depth, blocks: int = 4, **more: Any) -> Any:
    return Family(ViT(depth=blocks), (X,), [depth], **more)


def gone(family: Family, config: dict[str, Any]) -> list[str]:
    return [block.name for block in family.draft(config).slicing().dropped]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("order", "removed"),
    [
        ("last", ["blocks.3", "blocks.2", "blocks.1"]),
        ("first", ["blocks.0", "blocks.1", "blocks.2"]),
        ("spread", ["blocks.1", "blocks.3", "blocks.0"]),
        (("blocks.2", "blocks.0"), ["blocks.2", "blocks.0", "blocks.3"]),
    ],
)
def test_the_order_of_removal_nests_members(order: str | tuple[str, ...], removed: list[str]) -> None:
    family = family_of(Depth(least=0.25, order=order))
    assert [(c.name, c.options) for c in family.space.choices] == [("blocks.depth", (1, 2, 3, 4))]
    for depth in (4, 3, 2, 1):
        assert gone(family, {"blocks.depth": depth}) == removed[: 4 - depth]


@pytest.mark.slow
@pytest.mark.parametrize(("least", "options"), [(0, (0, 1, 2, 3)), (0.5, (1, 2, 3)), (0.7, (2, 3)), (0.34, (1, 2, 3))])
def test_a_share_always_stays(least: float, options: tuple[int, ...]) -> None:
    family = family_of(Depth(least=least), blocks=3)
    assert family.space.choices[0].options == options


def test_a_member_computes_what_its_blocks_compute() -> None:
    family = family_of(Depth(order=("blocks.1",)))
    model: Any = family.model.eval()
    member = family.member({"blocks.depth": 3})

    def by_hand(x: Tensor) -> Tensor:
        x = model.embed(x) + model.pos
        for index in (0, 2, 3):
            x = model.blocks[index](x)
        return model.head(model.norm(x).mean(1))

    assert torch.equal(member(X), by_hand(X))
    assert torch.equal(family.extract({"blocks.depth": 3})(X), by_hand(X))
    left = {name for name, _ in family.extract({"blocks.depth": 3}).named_parameters() if name.startswith("blocks.1.")}
    assert not left  # what was left out takes no room in what ships


def test_one_choice_per_block() -> None:
    family = family_of(Depth(per_block=True))
    assert [(c.name, c.options) for c in family.space.choices] == [
        (f"blocks.{index}.keep", (False, True)) for index in range(4)
    ]
    assert family.member(family.space.largest()) is family.model
    config = family.space.complete({"blocks.0.keep": False, "blocks.2.keep": False})
    assert gone(family, dict(config)) == ["blocks.0", "blocks.2"]
    assert family.extract(config)(X).shape == (3, 5)
    assert gone(family, dict(family.space.smallest())) == [f"blocks.{index}" for index in range(4)]


def test_every_run_of_blocks_has_its_own_choice() -> None:
    class Stages(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stage1 = nn.Sequential(Layer(8, 2), Layer(8, 2))
            self.between = nn.Linear(8, 16)
            self.stage2 = nn.Sequential(Layer(16, 2), Layer(16, 2), Layer(16, 2))

        def forward(self, x: Tensor) -> Tensor:
            return self.stage2(self.between(self.stage1(x))).mean(1)

    family = Family(Stages(), (vectors(3, 4, 8),), [Depth()])
    assert {c.name: c.options for c in family.space.choices} == {"stage1.depth": (1, 2), "stage2.depth": (1, 2, 3)}
    assert family.extract(family.space.smallest())(vectors(3, 4, 8)).shape == (3, 16)


def test_blocks_that_are_attributes_of_the_network_itself() -> None:
    class Bare(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second, self.out = Layer(8, 2), Layer(8, 2), nn.Linear(8, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.out(self.second(self.first(x)).mean(1))

    family = Family(Bare(), (vectors(3, 4, 8),), [Depth()])
    assert [(c.name, c.options) for c in family.space.choices] == [("depth", (1, 2))]
    assert gone(family, {"depth": 1}) == ["second"]


def test_with_width_and_a_constraint() -> None:
    family = Family(
        ConvNet(blocks=3), (images(),), [Width(multiple=4), Depth(least=0)], constraints=["blocks.depth >= 2"]
    )
    assert family.space.smallest()["blocks.depth"] == 2
    config = Config({"blocks.0.width": 4, "blocks.1.width": 8, "blocks.2.width": 12, "blocks.depth": 2})
    net: Any = family.member(config)
    assert net.blocks[1].conv1.weight.shape[0] == 8
    assert net(images()).shape == (6, 5)


def test_gradients_pass_a_block_that_is_left_out() -> None:
    family = family_of(Depth())
    family.member({"blocks.depth": 2})(X).sum().backward()
    model: Any = family.model
    assert model.embed.weight.grad.abs().sum() > 0
    assert model.blocks[3].fc1.weight.grad is None or model.blocks[3].fc1.weight.grad.abs().sum() == 0


def test_wrong_fields_are_refused() -> None:
    with pytest.raises(WrongShapeError, match=r"Depth.least is a share of the blocks, from 0 to 1; got 1.5"):
        Depth(least=1.5)
    with pytest.raises(UnknownNameError, match="no order of removal named 'lst'; did you mean 'last'"):
        Depth(order="lst")


@pytest.mark.slow
def test_an_order_that_names_no_block_of_the_network_is_refused() -> None:
    with pytest.raises(UnknownNameError, match=r"no block named 'block.1'; did you mean 'blocks.1'"):
        family_of(Depth(order=("block.1",)))
