"""Units that change places while a family trains: the same function, the same training from there on."""

from __future__ import annotations

import random
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from pliant.checks import NoEffectWarning, PliantError, WrongShapeError
from pliant.family import Family
from pliant.technique import Recipe
from pliant.techniques.elastic.kernel_size import KernelSize
from pliant.techniques.elastic.llm_qfa import LlmQfa
from pliant.techniques.elastic.weight_masks import WeightMasks
from pliant.techniques.elastic.width import Width
from pliant.training import TrainingStep, train
from pliant.training.course import Course
from tests.family.nets import ConvNet, images, vectors
from tests.techniques.train.turns import data_of, fresh
from tests.training.toy import Mlp


def shuffled(family: Family, seed: int = 0) -> dict[str, list[int]]:
    draw = random.Random(seed)
    return {axis: draw.sample(range(len(order)), len(order)) for axis, order in family.orders().items()}


class Shuffling(Recipe):
    """Ordinary training of the full network, whose units change places before some steps."""

    def __init__(self, steps: tuple[int, ...]) -> None:
        self.steps = steps

    def step(self, turn: Any) -> None:
        if turn.step in self.steps:
            turn.reorder(shuffled(turn.family, turn.step))
        turn.learn(turn.space.largest())


@pytest.mark.parametrize("kind", ["vit", "convnet"])
@pytest.mark.parametrize("made", ["sgd", "adamw"])
def test_training_goes_on_as_if_no_unit_had_moved(kind: str, made: str) -> None:
    x = next(data_of(kind)(99))[0]

    def trained(steps: tuple[int, ...], forget: bool = False) -> torch.Tensor:
        family = fresh(kind)
        parameters = list(family.parameters())
        optimizer: torch.optim.Optimizer = (
            torch.optim.SGD(parameters, lr=0.05, momentum=0.9)
            if made == "sgd"
            else torch.optim.AdamW(parameters, lr=0.01, eps=1e-3)  # a bias before a norm has only noise as gradient
        )

        def told(progress: Any) -> None:
            if forget and progress.step == 3:
                family.permute(shuffled(family, 3))  # behind the optimizer's back

        train(family, data_of(kind), F.cross_entropy, steps=6, recipe=Shuffling(steps), optimizer=optimizer,
              on_step=told)  # fmt: skip
        outputs: torch.Tensor = family.model.eval()(x).detach()
        return outputs

    plain, moved = trained(()), trained((2, 4))
    scale = float(plain.abs().max())
    assert float((moved - plain).abs().max()) < 2e-4 * scale
    assert float((trained((), forget=True) - plain).abs().max()) > 2e-3 * scale  # moments of other units


@pytest.mark.parametrize("beside", [WeightMasks(), KernelSize(sizes=(1,))])
def test_masks_move_along_and_kernel_transforms_stay(beside: Any) -> None:
    torch.manual_seed(0)
    x = images()
    family = Family(ConvNet().eval(), (x,), [Width(multiple=4), beside])
    draw = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, value in family.extra.items():
            value.copy_(torch.rand(value.shape, generator=draw) > 0.3 if name.startswith("mask/") else value + 0.1)
    config = family.space.complete({c.name: 1 for c in family.space.choices if c.name.endswith(".kernel")})
    wanted, before = family.extract(config)(x), family.model.get_parameter("blocks.0.conv1.weight").detach().clone()
    TrainingStep(family, (x, None), F.cross_entropy).reorder(shuffled(family))
    assert not torch.equal(family.model.get_parameter("blocks.0.conv1.weight"), before)
    assert torch.allclose(family.extract(config)(x), wanted, atol=1e-5)


def test_orders_are_by_importance_and_none_where_adapters_would_not_follow() -> None:
    torch.manual_seed(0)
    family = Family(Mlp(), (vectors(4, 8),), [Width(multiple=4)])
    family.prepare()
    assert all(list(order) == sorted(order) for order in family.orders().values())
    with torch.no_grad():
        family.model.get_parameter("fc1.weight")[5] *= 100
    order = family.orders()["fc1.width"]
    assert order[0] == 5
    assert sorted(order) == list(range(16))
    adapted = Family(Mlp(), (vectors(4, 8),), [Width(multiple=4), LlmQfa(group=8, rank=1)])
    assert adapted.orders() == {}


def test_when_nothing_is_reordered() -> None:
    family = fresh("vit")
    x, y = vectors(3, 4, 6), torch.tensor([0, 4, 2])
    course = Course(family, F.cross_entropy)
    turn = TrainingStep(family, (x, y), F.cross_entropy, course=course)
    with pytest.raises(WrongShapeError, match="name all its"):
        turn.reorder({axis: order[:-1] for axis, order in shuffled(family).items()})
    turn.learn(family.space.largest())
    with pytest.raises(PliantError, match="before learn"):
        turn.reorder(shuffled(family))
    for parameter in family.parameters():
        parameter.grad = None
    weights = [p.detach().clone() for p in family.parameters()]
    course.imitation = torch.nn.Module()  # type: ignore[assignment]
    course.imitation.sites = ["blocks.0"]  # type: ignore[union-attr]
    with pytest.warns(NoEffectWarning, match="not sorted anew"):
        turn.reorder(shuffled(family))
    assert all(torch.equal(p, before) for p, before in zip(family.parameters(), weights, strict=True))
