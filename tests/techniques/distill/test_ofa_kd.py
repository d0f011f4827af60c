"""OFA-KD: the loss against plain Python and its limit, branches for every kind of feature, and that it helps."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pliant.checks import UnknownNameError, WrongShapeError
from pliant.family import Family, View
from pliant.tasks.digits_convnet import DigitsConvNet
from pliant.tasks.digits_vit import DigitsViT
from pliant.techniques.distill.ofa_kd import OfaKd, alignment, branch, ofa_loss
from pliant.techniques.elastic.depth import Depth
from pliant.techniques.elastic.width import Width
from pliant.training import train
from tests.family.nets import ConvNet
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
from tests.training.toy import pictures


def by_hand(student: Tensor, teacher: Tensor, targets: Tensor, gamma: float, temperature: float) -> float:
    total = 0.0
    for ours, theirs, target in zip(student.tolist(), teacher.tolist(), targets.tolist(), strict=True):
        s, p = ([math.exp(v / temperature) for v in row] for row in (ours, theirs))
        s, p = [v / sum(s) for v in s], [v / sum(p) for v in p]
        total -= (1 + p[target]) ** gamma * math.log(s[target])
        total -= sum(b * math.log(a) for c, (a, b) in enumerate(zip(s, p, strict=True)) if c != target)
    return total / len(targets)


@pytest.mark.parametrize(("gamma", "temperature"), [(0.0, 1.0), (1.0, 1.0), (1.5, 1.0), (2.0, 3.0)])
def test_the_loss_is_the_papers_equation(gamma: float, temperature: float) -> None:
    student, teacher, targets = torch.randn(5, 4), 2 * torch.randn(5, 4), torch.tensor([0, 3, 3, 1, 2])
    found = float(ofa_loss(student, teacher, targets, gamma, temperature))
    assert found == pytest.approx(by_hand(student, teacher, targets, gamma, temperature), rel=1e-5)
    soft = F.one_hot(targets, 4) * 0.8 + 0.05
    assert float(ofa_loss(student, teacher, soft, gamma, temperature)) == pytest.approx(found, rel=1e-6)


def test_with_gamma_1_it_is_cross_entropy_plus_distillation() -> None:
    teacher, targets = 2 * torch.randn(7, 5), torch.randint(0, 5, (7,))
    left = torch.randn(7, 5, requires_grad=True)
    right = left.detach().clone().requires_grad_()
    ours = ofa_loss(left, teacher, targets, 1.0)
    divergence = F.kl_div(F.log_softmax(right, -1), F.softmax(teacher, -1), reduction="batchmean")
    theirs = F.cross_entropy(right, targets) + divergence
    ours.backward()
    theirs.backward()
    assert left.grad is not None
    assert right.grad is not None
    assert float((left.grad - right.grad).abs().max()) < 1e-6
    entropy = -(F.softmax(teacher, -1) * F.log_softmax(teacher, -1)).sum(-1).mean()
    assert float((ours - theirs).detach()) == pytest.approx(float(entropy), rel=1e-5)  # a constant


def test_a_sure_teacher_says_more_about_the_target() -> None:
    student, targets = torch.zeros(1, 4), torch.tensor([1])
    sure, unsure = torch.tensor([[0.0, 9, 0, 0]]), torch.tensor([[0.0, 0, 9, 0]])
    more = [float(ofa_loss(student, t, targets, 2.0) - ofa_loss(student, t, targets, 1.0)) for t in (sure, unsure)]
    assert more[0] == pytest.approx(2 * math.log(4), rel=1e-2)
    assert more[1] == pytest.approx(0.0, abs=1e-2)


@pytest.mark.parametrize(
    "shapes", [((4, 3), (4, 5), (4,)), ((4, 3), (4, 3), (5,)), ((2, 4, 3), (2, 4, 3), (2,)), ((4,), (4,), (4,))]
)
def test_shapes_that_do_not_fit(shapes: Any) -> None:
    student, teacher, targets = (torch.zeros(shape) for shape in shapes)
    with pytest.raises(WrongShapeError, match="the one-for-all loss needs logits"):
        ofa_loss(student, teacher, targets.long(), 1.5)


@pytest.mark.parametrize("shape", [(3, 6, 8, 8), (3, 6, 2, 2), (3, 4, 2, 4, 4), (3, 9, 6), (3, 5, 7), (3, 11)])
@pytest.mark.parametrize("left", [0, 1, 3])
def test_branches_map_any_feature_to_logits(shape: tuple[int, ...], left: int) -> None:
    feature = torch.randn(shape, requires_grad=True)
    logits = branch(feature, 16, 10, left)(feature)
    assert logits.shape == (3, 10)
    logits.square().sum().backward()
    assert feature.grad is not None
    assert float(feature.grad.abs().sum()) > 0


@pytest.mark.slow
@pytest.mark.parametrize(
    ("student", "sites"),
    [
        (DigitsViT(16, 4, 2, 8, 32), ("blocks.0", "blocks.1", "blocks.2", "blocks.3")),
        (DigitsConvNet((8, 8, 16), (8, 8, 16)), ("stages.0.1", "stages.1.1", "stages.1.2", "stages.2.1")),
        (perceptron(16, 3), ("1", "3", "5")),
        (convnet(), ("1", "2", "3")),
    ],
)
def test_it_finds_the_stages_and_drops_the_branches(student: nn.Module, sites: tuple[str, ...]) -> None:
    imitation = OfaKd().start(student.eval(), perceptron(), (images(),), {})
    assert imitation.sites == sites
    before = {name: value.clone() for name, value in student.named_parameters()}
    modules = len(list(student.modules()))
    optimizer = torch.optim.SGD(student.parameters(), lr=0.0)
    family = Family(student, (images(),))
    last = train(family, noise, F.cross_entropy, steps=1, recipe=Taught(), teacher=perceptron(), distiller=OfaKd(),
                 optimizer=optimizer)  # fmt: skip
    assert last.loss > 0
    after = dict(student.named_parameters())  # nothing learned at a rate of 0, and nothing was left behind
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], value) for name, value in before.items())
    assert len(list(student.modules())) == modules
    assert not any(module._forward_hooks for module in student.modules())


def test_every_stage_learns_and_the_branches_too() -> None:
    student, teacher = convnet(), perceptron().eval()
    imitation: Any = OfaKd(weight=0.5).start(student, teacher, (images(),), {})
    x, y = next(noise())
    features = {site: student[: int(site) + 1](x) for site in imitation.sites}
    loss = imitation(View(student(x), features), View(teacher(x)), y, 1.0)
    want = ofa_loss(student(x), teacher(x), y, 1.5)
    for site, net in zip(imitation.sites, imitation.branches, strict=True):
        want = want + 0.5 * ofa_loss(net(student[: int(site) + 1](x)), teacher(x), y, 1.5)
    assert float(loss.detach()) == pytest.approx(float(want.detach()), rel=1e-5)
    loss.backward()
    assert all(p.grad is not None and float(p.grad.abs().sum()) > 0 for p in imitation.parameters())
    assert all(p.grad is not None for p in student.parameters())


@pytest.mark.parametrize(("net", "data"), [(ConvNet(blocks=3), pictures), (DigitsViT(16, 3, 2, 8, 32), noise)])
def test_smaller_members_have_the_branches_of_what_they_have(net: nn.Module, data: Any) -> None:
    family = Family(net, (images(),), [Width(multiple=4), Depth()])
    last = train(family, data, F.cross_entropy, steps=2, recipe=InPlace(), distiller=OfaKd())
    assert len(last.losses) == 2
    assert last.losses[family.space.smallest()] > last.losses[family.space.largest()]  # of several outputs


@pytest.mark.slow
def test_killed_and_resumed_is_uninterrupted(tmp_path: Path) -> None:
    imitation = check_kill(convnet, perceptron(), OfaKd(sites=("1", "3")), tmp_path)
    assert len(list(imitation.parameters())) > 4


def test_wrong_fields_layers_and_outputs() -> None:
    with pytest.raises(WrongShapeError, match=r"gamma >= 0 and weight >= 0; got -1"):
        OfaKd(gamma=-1)
    with pytest.raises(UnknownNameError, match=r"no submodule named '33'.*"):
        OfaKd(sites=("33",)).start(convnet(), perceptron(), (images(),), {})
    with pytest.raises(UnknownNameError, match=r"'block.1'; did you mean 'blocks.1'"):
        OfaKd(sites=("block.1",)).start(DigitsViT(16, 2, 2, 8, 32), perceptron(), (images(),), {})
    with pytest.raises(WrongShapeError, match=r"one output is logits \(B, classes\); got \[\(6, 4, 3, 3\)\]"):
        OfaKd(sites=("0",)).start(nn.Sequential(nn.Conv2d(1, 4, 3, 2)), None, (images(),), {})
    with pytest.raises(WrongShapeError, match="no kind of layer occurs more than once"):
        OfaKd().start(nn.Sequential(nn.Flatten(), nn.Linear(64, 10)), None, (images(),), {})


def test_alignment_of_layers_against_plain_sums() -> None:
    left, right = perceptron(8, 2), convnet(4, 2)
    parts = [images(5, 1), images(5, 2), images(5, 3)]
    found = alignment(left, right, parts, ("1", "3"), ("1", "2"))

    def unbiased(x: Tensor, y: Tensor) -> float:
        n, total = len(x), 0.0
        x, y = (v.flatten(1).double() for v in (x, y))
        x, y = (v - v.mean(0) for v in (x, y))
        x, y = x / x.norm(), y / y.norm()
        k = [[float(x[i] @ x[j]) if i != j else 0.0 for j in range(n)] for i in range(n)]
        m = [[float(y[i] @ y[j]) if i != j else 0.0 for j in range(n)] for i in range(n)]
        total += sum(k[i][j] * m[j][i] for i in range(n) for j in range(n))
        total += sum(map(sum, k)) * sum(map(sum, m)) / ((n - 1) * (n - 2))
        total -= 2 / (n - 2) * sum(k[i][j] * m[j][q] for i in range(n) for j in range(n) for q in range(n))
        return total / (n * (n - 3))

    with torch.no_grad():
        for row, stop in enumerate((2, 4)):
            for column, end in enumerate((2, 3)):
                ours, theirs = ([net[:cut](x) for x in parts] for net, cut in ((left, stop), (right, end)))
                xy = sum(unbiased(a, b) for a, b in zip(ours, theirs, strict=True))
                xx, yy = (sum(unbiased(a, a) for a in rows) for rows in (ours, theirs))
                assert float(found[row, column]) == pytest.approx(xy / math.sqrt(xx * yy), abs=1e-4)
    assert torch.allclose(alignment(left, left, parts, ("1", "3"), ("1", "3")).diagonal(), torch.ones(2), atol=1e-5)


def test_alignment_refuses_small_batches_and_unknown_layers() -> None:
    with pytest.raises(WrongShapeError, match="at least one batch"):
        alignment(perceptron(), perceptron(), [], ("1",), ("1",))
    with pytest.raises(WrongShapeError, match="the same 4 or more examples"):
        alignment(perceptron(), perceptron(), [images(3)], ("1",), ("1",))
    with pytest.raises(UnknownNameError, match="no submodule named 'q'"):
        alignment(perceptron(), perceptron(), [images(5)], ("1",), ("q",))


@pytest.mark.slow
def test_on_digits_a_perceptron_learns_more_from_a_convnet_than_from_labels() -> None:
    torch.manual_seed(0)
    teacher = fit(convnet(16), 250)
    assert error(teacher) < 0.06
    errors: dict[str, list[float]] = {"labels": [], "taught": []}
    for seed in range(3):
        for name in errors:
            torch.manual_seed(seed)
            how: dict[str, Any] = {"teacher": teacher, "distiller": OfaKd()} if name == "taught" else {}
            errors[name].append(error(fit(perceptron(64, 3), 150, count=100, seed=seed, **how)))
    assert sum(errors["taught"]) < 0.9 * sum(errors["labels"]), errors
