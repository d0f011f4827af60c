"""Guidance: the alignment's invariances, a guide that stays as it is and leaves in time, and that it helps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pliant.checks import UnknownNameError, WrongShapeError
from pliant.family import Family, View
from pliant.tasks.digits_vit import DigitsViT
from pliant.techniques.distill._cka import cka
from pliant.techniques.distill.guidance import Guidance, paired
from pliant.techniques.elastic.depth import Depth
from pliant.techniques.elastic.width import Width
from pliant.training import train
from tests.techniques.distill.digits import (
    InPlace,
    Taught,
    check_kill,
    convnet,
    error,
    fit,
    images,
    noise,
    perceptron,
)


def orthogonal(width: int) -> Tensor:
    return torch.linalg.qr(torch.randn(width, width))[0]


@pytest.mark.parametrize("scale", [1e-3, 1.0, -7.0, 1e4])
def test_alignment_ignores_rotation_scale_and_shift(scale: float) -> None:
    x = torch.randn(12, 6)
    assert float(cka(x, scale * x @ orthogonal(6) + torch.randn(6))) == pytest.approx(1.0, abs=1e-5)


def test_alignment_against_the_ratio_of_covariances() -> None:
    x, y = torch.randn(9, 3, 2), torch.randn(9, 5)
    a, b = x.flatten(1) - x.flatten(1).mean(0), y - y.mean(0)
    want = (a.T @ b).square().sum() / ((a.T @ a).norm() * (b.T @ b).norm())
    assert float(cka(x, y)) == pytest.approx(float(want), rel=1e-5)
    assert float(cka(x, y)) == pytest.approx(float(cka(y, x)), rel=1e-6)
    left, right = torch.tensor([[1.0], [-1], [0], [0]]), torch.tensor([[0.0], [0], [1], [-1]])
    assert float(cka(left, right)) == pytest.approx(0.0, abs=1e-7)


def test_alignment_is_as_precise_under_mixed_precision() -> None:
    x, y = torch.randn(9, 6), torch.randn(9, 5)
    with torch.autocast("cpu", torch.bfloat16):
        mixed = cka(x, y)
    assert torch.equal(mixed, cka(x, y))


def test_what_is_constant_is_aligned_with_nothing_and_gives_no_nan() -> None:
    x = torch.ones(5, 4, requires_grad=True)
    found = cka(x, torch.randn(5, 3))
    found.backward()
    assert float(found.detach()) == 0.0
    assert x.grad is not None
    assert bool(torch.isfinite(x.grad).all())


@pytest.mark.parametrize("shapes", [((4, 2), (5, 2)), ((1, 2), (1, 2)), ((), ())])
def test_other_examples_or_too_few_are_refused(shapes: Any) -> None:
    with pytest.raises(WrongShapeError, match="over the same 2 or more examples"):
        cka(torch.zeros(shapes[0]), torch.zeros(shapes[1]))


def test_the_loss_is_one_minus_the_alignment_of_each_pair() -> None:
    student, guide, x = perceptron(16, 3), convnet(), images(8)
    pairs = (("1", "1"), ("3", "1"), ("5", "3"))
    imitation = Guidance(layers=pairs).start(student, guide, (x,), {})
    ours, theirs = ({str(k): net[: k + 1](x) for k in (1, 3, 5)} for net in (student, guide))
    found = imitation(View(student(x), ours), View(guide(x), theirs), None, 1.0)
    want = sum(1 - float(cka(ours[a], theirs[b]).detach()) for a, b in pairs)
    assert float(found.detach()) == pytest.approx(want, rel=1e-5)
    assert imitation.sites == ("1", "3", "5")
    assert imitation.teacher_sites == ("1", "3")
    assert not list(imitation.parameters())


def test_layers_are_paired_over_the_depth_of_both() -> None:
    assert paired(DigitsViT(16, 4, 2, 8, 32), convnet(depth=2), 4) == (("blocks.1", "1"), ("blocks.3", "2"))
    imitation = Guidance(count=1).start(perceptron(16, 3), convnet(), (images(),), {})
    assert imitation.sites == ("5",)
    assert imitation.teacher_sites == ("3",)


def test_the_guide_is_unchanged_and_an_aligned_student_has_nothing_to_learn() -> None:
    torch.manual_seed(0)
    guide = convnet()
    before = {name: value.clone() for name, value in guide.state_dict().items()}
    student = convnet()
    student.load_state_dict(before)
    how: dict[str, Any] = {"recipe": Taught(), "teacher": guide, "distiller": Guidance()}
    last = train(Family(student, (images(),)), noise, F.cross_entropy, steps=1, **how)
    assert last.loss == pytest.approx(0.0, abs=1e-5)
    last = train(Family(perceptron(), (images(),)), noise, F.cross_entropy, steps=3, **how)
    assert last.loss > 0.01
    assert all(torch.equal(value, before[name]) for name, value in guide.state_dict().items())
    assert all(p.grad is None for p in guide.parameters())


def test_the_guide_leaves_in_time() -> None:
    losses: list[float] = []
    family = Family(perceptron(), (images(),))
    distiller = Guidance(until=0.5)
    train(family, noise, F.cross_entropy, steps=6, recipe=Taught(), teacher=convnet(), distiller=distiller,
          on_step=lambda progress: losses.append(progress.loss))  # fmt: skip
    assert all(loss > 0 for loss in losses[:3])
    assert losses[3:] == [0.0] * 3


def test_smaller_members_follow_with_the_layers_that_they_have() -> None:
    net = DigitsViT(16, 3, 2, 8, 32)
    family = Family(net, (images(),), [Width(multiple=4), Depth()])
    last = train(family, noise, F.cross_entropy, steps=1, recipe=InPlace(), distiller=Guidance(count=3))
    assert 0 < last.losses[family.space.smallest()] < 3


def test_killed_and_resumed_is_uninterrupted(tmp_path: Path) -> None:
    check_kill(perceptron, convnet(), Guidance(until=0.7), tmp_path)


@pytest.mark.parametrize("wrong", [{"count": 0}, {"until": 0.0}, {"until": 1.5}])
def test_wrong_fields(wrong: dict[str, Any]) -> None:
    with pytest.raises(WrongShapeError, match="Guidance needs count >= 1 and until"):
        Guidance(**wrong)


def test_wrong_layers() -> None:
    with pytest.raises(UnknownNameError, match="no submodule named 'stem'"):
        Guidance(layers=(("1", "stem"),)).start(perceptron(), convnet(), (images(),), {})
    with pytest.raises(UnknownNameError, match=r"'block.0'; did you mean 'blocks.0'"):
        Guidance(layers=(("block.0", "1"),)).start(DigitsViT(16, 2, 2, 8, 32), convnet(), (images(),), {})

    class Spare(nn.Sequential):
        def __init__(self) -> None:
            super().__init__(nn.Flatten(), nn.Linear(64, 10))
            self[0].spare = nn.Linear(2, 2)

    with pytest.raises(WrongShapeError, match=r"'0.spare' should give .* it gave none \(is it called at all\?\)"):
        Guidance(layers=(("0.spare", "1"),)).start(Spare(), convnet(), (images(),), {})


def deep(depth: int = 24, width: int = 48) -> nn.Sequential:
    """A network without shortcuts whose examples become ever more alike with depth."""
    layers: list[nn.Module] = [nn.Flatten(), nn.Linear(64, width), nn.ReLU()]
    for _ in range(depth - 1):
        layers += [nn.Linear(width, width), nn.LayerNorm(width), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(width, 10))


@pytest.mark.slow
def test_a_deep_network_without_shortcuts_learns_digits_when_guided() -> None:
    """By an untrained guide, which leaves after half of the steps: what it passes on is its architecture's bias."""
    torch.manual_seed(100)
    guide, errors = convnet(8), {"alone": 0.0, "guided": 0.0}
    for seed in range(3):
        torch.manual_seed(seed)
        errors["alone"] += error(fit(deep(), 200, lr=1e-3, seed=seed))
        torch.manual_seed(seed)
        how: dict[str, Any] = {"recipe": Taught(0.5), "teacher": guide, "distiller": Guidance(until=0.5)}
        errors["guided"] += error(fit(deep(), 200, lr=1e-3, seed=seed, **how))
    assert errors["guided"] < 0.75 * errors["alone"], errors
