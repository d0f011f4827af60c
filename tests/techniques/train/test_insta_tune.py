"""InstaTune: the given network is the largest member, who learns from whom, and resuming."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from pliant.checks import WrongShapeError
from pliant.family import Family
from pliant.space import Choice, Space
from pliant.techniques.elastic.depth import Depth
from pliant.techniques.elastic.width import Width
from pliant.techniques.train.insta_tune import InstaTune
from pliant.training import TrainingStep, distillation_loss, train
from pliant.training.course import Course
from tests.family.nets import Gpt, ViT, tokens, vectors
from tests.techniques.train.turns import Notes, check_gradient, check_resume, check_runs, data_of, fresh, spread

SPACE = Space([Choice("a", (1, 2, 3)), Choice("b", (1, 2, 3, 4))])


@pytest.mark.parametrize("together", [True, False])
def test_random_members_learn_from_the_whole_network(together: bool) -> None:
    turn: Any = Notes(SPACE)
    InstaTune(members=2, share=0.8, temperature=2.0, together=together).step(turn)
    assert turn.learnt[0] == (SPACE.largest(), {})
    wanted = {"teacher": turn.learnt[1][1]["teacher"], "share": 0.8, "temperature": 2.0}
    assert wanted["teacher"] == "outputs 1"
    assert [how for _, how in turn.learnt[1:]] == [wanted] * 2
    assert ["update" in how for _, how in turn.calls] == (
        [False] * 3 if together else [False, True, False, True, False]
    )


def test_the_whole_network_learns_from_the_runs_teacher() -> None:
    turn: Any = Notes(SPACE, taught="the teacher's")
    InstaTune(lead=0.7).step(turn)
    assert turn.calls[0][1] == {"teacher": "the teacher's", "share": 0.7, "temperature": 1.0}


def test_without_a_share_of_the_whole_networks_all_members_learn_from_the_runs_teacher() -> None:
    turn: Any = Notes(SPACE, taught="the teacher's")
    InstaTune(members=2, share=0.0, lead=0.7).step(turn)
    assert [how for _, how in turn.learnt] == [{"teacher": "the teacher's", "share": 0.7, "temperature": 1.0}] * 3


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"members": 0}, "members is a whole number, 1 or more; got 0"),
        ({"share": 1.1}, "share is a share"),
        ({"lead": -1.0}, "lead is a share"),
        ({"temperature": float("nan")}, "temperature is a finite number above 0; got nan"),
    ],
)
def test_wrong_fields_are_refused(wrong: dict[str, Any], words: str) -> None:
    with pytest.raises(WrongShapeError, match=words):
        InstaTune(**wrong)


@pytest.mark.parametrize("make", [ViT, Gpt])
def test_at_the_start_the_largest_member_is_the_given_network(make: Any) -> None:
    net = make().eval()
    x = tokens() if make is Gpt else vectors(3, 4, 6)
    given = copy.deepcopy(net)
    family = Family(net, (x,), [Width(multiple=8), Depth()])
    assert torch.equal(family.extract(family.space.largest())(x), given(x))
    assert all(torch.equal(a, b) for a, b in zip(family.parameters(), given.parameters(), strict=True))
    InstaTune().prepare(family)
    assert torch.equal(family.extract(family.space.largest())(x), given(x))
    family.prepare()  # sorting adds up in another order
    assert torch.allclose(family.extract(family.space.largest())(x), given(x), atol=1e-6)
    for config in (family.space.smallest(), family.space.largest()):
        assert torch.allclose(family.extract(config)(x), family.member(config)(x), atol=1e-6)


def test_tuned_towards_the_given_network_alone_the_whole_network_stays_as_it_is() -> None:
    """With the original as teacher and no labels the largest member's loss and gradient are zero at the start."""
    x, y = vectors(3, 4, 6), torch.tensor([0, 4, 2])
    family = fresh("vit")
    original = copy.deepcopy(family.model).eval()
    turn = TrainingStep(family, (x, y), F.cross_entropy, course=Course(family, F.cross_entropy, teacher=original))
    InstaTune(lead=1.0).step(turn)
    whole, member = turn.learnt
    assert abs(turn.losses[whole]) < 1e-6 < turn.losses[member]
    net = family.extract(member)
    distillation_loss(net(x), original(x).detach()).backward()
    check_gradient(family, [spread(family, member, net)])


def test_the_gradient_is_that_of_separate_networks() -> None:
    x, y = vectors(3, 4, 6), torch.tensor([0, 4, 2])
    family = fresh("vit")
    turn = TrainingStep(family, (x, y), F.cross_entropy)
    InstaTune(members=2, share=0.6, temperature=1.5).step(turn)
    wanted, teacher = [], None
    for config in turn.learnt:
        net = family.extract(config)
        outputs = net(x)
        loss = F.cross_entropy(outputs, y)
        (loss if teacher is None else 0.6 * distillation_loss(outputs, teacher, 1.5) + 0.4 * loss).backward()
        teacher = outputs.detach() if teacher is None else teacher
        wanted.append(spread(family, config, net))
    check_gradient(family, wanted)


def test_members_come_nearer_to_the_given_network() -> None:
    """Tuned without labels, the smallest member's outputs are nearer to the original's than before."""
    family = fresh("vit")
    family.prepare()
    original = copy.deepcopy(family.model).eval()
    x = vectors(32, 4, 6, seed=9)

    def gap() -> float:
        with torch.no_grad():
            return float(distillation_loss(family.extract(family.space.smallest())(x), original(x)))

    before = gap()
    optimizer = torch.optim.AdamW(family.parameters(), lr=0.01, fused=True)
    train(family, data_of("vit"), _none, steps=40, recipe=InstaTune(lead=1.0), optimizer=optimizer, teacher=original)
    assert gap() < 0.6 * before


def _none(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    raise AssertionError("the labels are not looked at")


def test_a_killed_run_goes_on_with_the_same_weights(tmp_path: Path) -> None:
    check_resume(InstaTune(), tmp_path)


def test_it_trains_any_family() -> None:
    check_runs(InstaTune())
