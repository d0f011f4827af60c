"""BigNAS: who learns and how, blocks that start as the identity, and that it helps."""

from __future__ import annotations

import copy
import logging
import math
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from pliant.checks import WrongShapeError
from pliant.family import Family
from pliant.space import Choice, Space
from pliant.techniques.elastic.width import Width
from pliant.techniques.train.big_nas import BigNas
from pliant.training import TrainingStep, distillation_loss, train
from tests.family.nets import ConvNet, images, vectors
from tests.techniques.train.turns import (
    Notes,
    check_gradient,
    check_resume,
    check_runs,
    digit_errors,
    fresh,
    ordinary,
    spread,
)
from tests.training.toy import batches, loss, mlp

SPACE = Space([Choice("a", (1, 2, 3)), Choice("b", (1, 2, 3, 4))])


def test_a_sandwich_whose_largest_alone_is_regularised() -> None:
    turn: Any = Notes(SPACE)
    BigNas(between=2, temperature=2.0).step(turn)
    (first, how), *others = turn.calls
    assert first == SPACE.largest()
    assert how == {}
    assert len(others) == 3
    assert others[-1][0] == SPACE.smallest()
    wanted = {"teacher": "outputs 1", "share": 1.0, "temperature": 2.0, "regularise": False}
    assert all(how == wanted for _, how in others)


def test_apart_there_is_an_optimizer_step_between_any_two() -> None:
    turn: Any = Notes(SPACE)
    BigNas(between=1, together=False).step(turn)
    assert ["update" in how for _, how in turn.calls] == [False, True, False, True, False]


def test_the_largest_learns_from_the_runs_teacher() -> None:
    turn: Any = Notes(SPACE, taught="the teacher's")
    BigNas(lead=0.7).step(turn)
    assert turn.calls[0][1] == {"teacher": "the teacher's", "share": 0.7, "temperature": 1.0}


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"between": -1}, "between is a whole number, 0 or more; got -1"),
        ({"share": 1.5}, "share is a share, from 0 to 1"),
        ({"lead": -0.1}, "lead is a share"),
        ({"floor": 2.0}, "floor is a share"),
        ({"temperature": 0.0}, "temperature is a finite number above 0"),
        ({"decay": 0.0}, "decay is above 0 and at most 1"),
    ],
)
def test_wrong_fields_are_refused(wrong: dict[str, Any], words: str) -> None:
    with pytest.raises(WrongShapeError, match=words):
        BigNas(**wrong)


def test_the_rate_is_the_papers() -> None:
    """0.97 every 2.4 of 360 epochs, as the paper decays, until 5 % of the first rate are left."""
    recipe = BigNas(decay=0.97 ** (360 / 2.4))
    for epoch in range(0, 361, 12):
        assert recipe.rate(epoch / 360) == pytest.approx(max(0.05, 0.97 ** (epoch / 2.4)))
    assert recipe.rate(1.0) == 0.05
    ends = math.log(0.05) / math.log(recipe.decay)
    assert recipe.rate(ends - 0.01) > 0.05 == recipe.rate(ends + 0.01)


def test_dropout_acts_on_the_largest_alone() -> None:
    """With dropout of everything the largest member's gradients vanish behind it, the others' do not."""
    family = mlp(dropout=1.0)
    x, y = torch.randn(6, 8), torch.randint(0, 3, (6,))
    turn = TrainingStep(family, (x, y), loss)
    BigNas(between=0, share=0.0).step(turn)
    full, small = copy.deepcopy(family.model), family.extract(family.space.smallest())
    for net in (full.train(), small):
        net.zero_grad()
        F.cross_entropy(net(x), y).backward()
    assert float(full.fc1.weight.grad.abs().sum()) == 0
    check_gradient(
        family, [spread(family, family.space.largest(), full), spread(family, family.space.smallest(), small)]
    )


def test_the_gradient_is_that_of_separate_networks() -> None:
    x, y = vectors(3, 4, 6), torch.tensor([0, 4, 2])
    family = fresh("vit")
    turn = TrainingStep(family, (x, y), F.cross_entropy)
    BigNas(between=2, temperature=1.5).step(turn)
    wanted, teacher = [], None
    for config in turn.learnt:
        net = family.extract(config)
        net.zero_grad()
        outputs = net(x)
        (F.cross_entropy(outputs, y) if teacher is None else distillation_loss(outputs, teacher, 1.5)).backward()
        teacher = outputs.detach() if teacher is None else teacher
        wanted.append(spread(family, config, net))
    assert len(wanted) == 4
    check_gradient(family, wanted)


# ---- the residual blocks' start ------------------------------------------------------------------------------------
def test_residual_blocks_start_as_the_identity() -> None:
    family = fresh("convnet")
    BigNas().prepare(family)
    net = family.model
    zero = {name for name, p in net.named_parameters() if not p.any() and name.endswith("weight")}
    assert zero == {"blocks.0.norm2.weight", "blocks.1.norm2.weight"}
    x = images()
    bare = copy.deepcopy(net)
    bare.blocks = nn.Identity()
    assert torch.equal(net.eval()(x), bare.eval()(x))  # what enters a block is not negative here
    smallest: Any = family.extract(family.space.smallest())
    assert not smallest.blocks[0].norm2.weight.any()  # members see it


def test_a_norm_before_a_branch_or_behind_the_addition_stays() -> None:
    class PostNorm(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attn, self.norm1 = nn.Linear(16, 16), nn.LayerNorm(16)
            self.fc1, self.fc2, self.norm2 = nn.Linear(16, 32), nn.Linear(32, 16), nn.LayerNorm(16)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.norm1(x + self.attn(x))
            return self.norm2(x + self.fc2(torch.relu(self.fc1(x))))

    post = Family(nn.Sequential(nn.Linear(6, 16), PostNorm(), nn.Linear(16, 3)), (vectors(3, 6),), [Width(multiple=8)])
    assert post.analysis.blocks
    for family in (post, fresh("vit")):
        before = copy.deepcopy(family.model.state_dict())
        BigNas().prepare(family)
        assert all(torch.equal(value, before[name]) for name, value in family.model.state_dict().items())


def test_trained_gains_are_left_alone(caplog: pytest.LogCaptureFixture) -> None:
    net: Any = ConvNet(blocks=4)
    with torch.no_grad():
        net.blocks[0].norm2.weight.mul_(1.1)
        net.blocks[1].norm2.bias.add_(0.1)
        net.blocks[2].norm2.running_mean.add_(0.1)
        net.blocks[3].norm2.weight.requires_grad_(False)
    family = Family(net.eval(), (images(),), [Width(multiple=8)])
    before = net(images())
    with caplog.at_level(logging.INFO, "pliant.training"):
        BigNas().prepare(family)
    assert torch.equal(net(images()), before)
    assert "0 of 4 residual blocks start as the identity; 4 gains had been trained and stay" in caplog.text


def test_the_loop_prepares_a_new_run_and_not_one_that_goes_on(tmp_path: Path) -> None:
    prepared: list[str] = []

    class Watched(BigNas):
        def prepare(self, family: Family) -> None:
            prepared.append("sorted" if family.prepared else "unsorted")

    for _ in range(2):
        train(mlp(), batches, loss, steps=2, recipe=Watched(), folder=tmp_path)
    train(mlp(), batches, loss, steps=4, recipe=Watched(), folder=tmp_path)
    assert prepared == ["sorted"]


def test_a_killed_run_goes_on_with_the_same_weights(tmp_path: Path) -> None:
    check_resume(BigNas(between=1), tmp_path, "convnet")


def test_it_trains_any_family() -> None:
    check_runs(BigNas(between=1), steps=3)


@pytest.mark.slow
def test_on_digits_the_smallest_member_beats_the_same_slice_of_an_ordinary_network() -> None:
    smallest, largest = fresh("digits").space.smallest(), fresh("digits").space.largest()
    for seed in range(3):
        errors, plain = digit_errors(BigNas(between=1), seed, 140), ordinary(seed)
        assert errors[smallest] < 0.5 * plain[smallest], (seed, errors, plain)
        assert errors[smallest] < 0.15
        assert errors[largest] < 0.1


def test_the_digits_networks_blocks_close_with_a_norm() -> None:
    """What the claim on digits is tested with has the gains that the recipe zeroes."""
    family = fresh("digits")
    BigNas().prepare(family)
    assert not any(block.norm.weight.any() for block in family.model.blocks)
