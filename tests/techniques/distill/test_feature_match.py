"""Feature distillation: identities of a copied teacher, the loss by hand, and zero-shot classification on digits."""

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
from pliant.techniques.distill.feature_match import FeatureMatch, class_vectors, zero_shot_logits
from pliant.techniques.elastic.depth import Depth
from pliant.techniques.elastic.width import Width
from pliant.training import train
from tests.techniques.distill.digits import (
    InPlace,
    Taught,
    batches_of,
    check_kill,
    convnet,
    digits,
    images,
    noise,
    perceptron,
)


def nothing(outputs: Tensor, targets: Any) -> Tensor:
    raise AssertionError("labels are not looked at")


@pytest.mark.slow
def test_a_copy_of_the_teacher_has_nothing_to_learn_and_classifies_alike() -> None:
    teacher, student = convnet(8, 3, 16), convnet(8, 3, 16)
    student.load_state_dict(teacher.state_dict())
    family = Family(student, (images(),))
    distiller = FeatureMatch(layers=(("1", "1"), ("3", "3")))
    last = train(family, noise, nothing, steps=1, recipe=Taught(), teacher=teacher, distiller=distiller)
    assert last.loss == 0.0
    vectors = class_vectors([torch.randn(16) for _ in range(10)])
    student.load_state_dict(teacher.state_dict())
    assert torch.equal(zero_shot_logits(student(images()), vectors), zero_shot_logits(teacher(images()), vectors))


@pytest.mark.parametrize("normalise", [False, True])
@pytest.mark.parametrize("outputs", [False, True])
def test_the_loss_is_the_mean_squared_distance(normalise: bool, outputs: bool) -> None:
    student, teacher, x = convnet(8), convnet(12), images()
    settings = FeatureMatch((("1", "2"), ("3", "3")), outputs, 0.25, normalise)
    imitation: Any = settings.start(student, teacher, (x,), {})
    ours = {site: student[: int(site) + 1](x) for site in ("1", "3")}
    theirs = {site: teacher[: int(site) + 1](x) for site in ("2", "3")}
    found = imitation(View(student(x), ours), View(teacher(x), theirs), None, 1.0)
    total = 0.0
    for pair, (a, b) in enumerate((("1", "2"), ("3", "3"))):
        map_ = imitation.maps[pair]
        assert (map_.in_features, map_.out_features) == (8, 12)
        left = torch.einsum("bchw,oc->bohw", ours[a], map_.weight) + map_.bias[:, None, None]
        right = theirs[b]
        if normalise:
            left, right = left / left.norm(dim=1, keepdim=True), right / right.norm(dim=1, keepdim=True)
        total += 0.25 * float((left - right).square().mean().detach())
    if outputs:
        left, right = student(x), teacher(x)
        if normalise:
            left, right = left / left.norm(dim=1, keepdim=True), right / right.norm(dim=1, keepdim=True)
        total += float((left - right).square().mean().detach())
    assert float(found.detach()) == pytest.approx(total, rel=1e-5)


def test_maps_of_unequal_sizes_are_averaged_to_the_smaller() -> None:
    student = nn.Sequential(nn.Conv2d(1, 4, 3, 1, 1), nn.Flatten(), nn.Linear(256, 10))
    teacher = nn.Sequential(nn.Conv2d(1, 4, 3, 2, 1), nn.Flatten(), nn.Linear(64, 10))
    imitation = FeatureMatch((("0", "0"),), outputs=False).start(student, teacher, (images(),), {})
    x = images()
    a, b = student[0](x), teacher[0](x)
    found = imitation(View(student(x), {"0": a}), View(teacher(x), {"0": b}), None, 1.0)
    want = (F.avg_pool2d(a, 2) - b).square().mean()
    assert float(found.detach()) == pytest.approx(float(want.detach()), rel=1e-5)
    assert not list(imitation.parameters())  # of one width: nothing to map


def test_smaller_members_match_the_leading_units_that_they_share() -> None:
    net = DigitsViT(16, 3, 2, 8, 32)
    family = Family(net, (images(),), [Width(multiple=4), Depth()])
    pairs = tuple((f"blocks.{k}.mlp.fc1", f"blocks.{k}.mlp.fc1") for k in range(3))
    distiller = FeatureMatch(pairs, outputs=False)
    smallest = family.space.smallest()
    family.prepare()
    x = images()
    found: dict[str, Tensor] = {}
    for name, member in (("large", net), ("small", family.member(smallest))):
        hook = member.get_submodule("blocks.0.mlp.fc1").register_forward_hook(
            lambda m, args, out, name=name: found.__setitem__(name, out)
        )
        member(x)
        hook.remove()
    width = found["small"].shape[-1]
    want = (found["small"] - found["large"][..., :width]).square().mean()
    seen: list[float] = []
    train(family, [(x, torch.zeros(6, dtype=torch.long))], F.cross_entropy, steps=1, recipe=InPlace(),
          distiller=distiller, on_step=lambda p: seen.append(p.losses[smallest]),
          optimizer=torch.optim.SGD(net.parameters(), lr=0.0))  # fmt: skip
    assert width < 32
    left_out = 3 - smallest["blocks.depth"]  # type: ignore[operator]
    assert left_out == 2  # of three pairs, one is left
    assert seen[0] == pytest.approx(float(want.detach()), rel=1e-4)


def test_killed_and_resumed_is_uninterrupted(tmp_path: Path) -> None:
    imitation = check_kill(convnet, convnet(12), FeatureMatch(layers=(("1", "2"),)), tmp_path)
    assert len(list(imitation.parameters())) == 2


def test_wrong_fields_layers_and_widths() -> None:
    with pytest.raises(WrongShapeError, match="FeatureMatch needs weight >= 0"):
        FeatureMatch(weight=-1.0)
    with pytest.raises(WrongShapeError, match="outputs=True or layers to match"):
        FeatureMatch(outputs=False)
    with pytest.raises(UnknownNameError, match=r"'block.1'; did you mean 'blocks.1'"):
        FeatureMatch((("block.1", "1"),)).start(DigitsViT(16, 2, 2, 8, 32), convnet(), (images(),), {})
    with pytest.raises(UnknownNameError, match="no submodule named 'nine'"):
        FeatureMatch((("1", "nine"),)).start(convnet(), convnet(), (images(),), {})
    with pytest.raises(WrongShapeError, match=r"layers 'blocks.1' and '1' give \(6, 16, 16\) and \(6, 8, 4, 4\)"):
        FeatureMatch((("blocks.1", "1"),)).start(DigitsViT(16, 2, 2, 8, 32), convnet(), (images(),), {})
    with pytest.raises(WrongShapeError, match=r"\[\(6, 10\)\], the teacher \[\(6, 12\)\]: end the student in a linear"):
        FeatureMatch().start(convnet(), convnet(outputs=12), (images(),), {})


def test_class_vectors_are_means_of_normalised_prompts() -> None:
    prompts = [torch.tensor([[3.0, 0], [0, 5]]), torch.tensor([0.0, -2])]
    found = class_vectors(prompts)
    assert torch.allclose(found, torch.tensor([[0.5**0.5, 0.5**0.5], [0, -1]]))
    logits = zero_shot_logits(torch.tensor([[7.0, 7], [0, -1]]), found, scale=10)
    assert torch.allclose(logits, torch.tensor([[10, -10 * 0.5**0.5], [-10 * 0.5**0.5, 10]]), atol=1e-5)
    with pytest.raises(WrongShapeError, match=r"all of one width; got \[\(1, 2\), \(1, 3\)\]"):
        class_vectors([torch.zeros(2), torch.zeros(3)])
    with pytest.raises(WrongShapeError, match="got \\[\\]"):
        class_vectors([])
    with pytest.raises(WrongShapeError, match=r"share a width; got \(2, 3\) and \(4, 2\)"):
        zero_shot_logits(torch.zeros(2, 3), torch.zeros(4, 2))


@pytest.mark.slow
def test_on_digits_a_student_without_labels_comes_near_its_teacher() -> None:
    """The student sees images alone; what classifies both are the teacher's class vectors, fixed beforehand."""
    torch.manual_seed(0)
    vectors = F.normalize(torch.randn(10, 24), dim=-1)
    teacher = convnet(16, 3, 24)
    family = Family(teacher, (images(4),))
    train(family, batches_of(), lambda out, y: F.cross_entropy(zero_shot_logits(out, vectors, 10), y), steps=200,
          recipe=Taught(), optimizer=torch.optim.AdamW(teacher.parameters(), lr=3e-3, fused=True))  # fmt: skip
    teacher.eval()
    x, y = digits()["test"]

    def accuracy(net: nn.Module) -> float:
        with torch.no_grad():
            return float((zero_shot_logits(net.eval()(x), vectors).argmax(1) == y).float().mean())

    best = accuracy(teacher)
    assert best > 0.93
    for seed in range(3):
        torch.manual_seed(seed)
        student = perceptron(32, 2, 24)
        before = accuracy(student)
        optimizer = torch.optim.AdamW(student.parameters(), lr=5e-3, fused=True)
        train(Family(student, (images(4),)), batches_of(), nothing, steps=250, recipe=Taught(), teacher=teacher,
              distiller=FeatureMatch(), optimizer=optimizer, seed=seed)  # fmt: skip
        assert before < 0.3
        assert accuracy(student) > best - 0.08
