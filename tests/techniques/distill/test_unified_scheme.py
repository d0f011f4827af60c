"""USI: its loss against a reference, mixing and averaging by hand, resuming, and that it helps unlike backbones."""

from __future__ import annotations

from functools import cache, partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pliant.checks import PliantError, WrongShapeError
from pliant.family import Family
from pliant.tasks.digits_vit import DigitsViT
from pliant.techniques.distill.unified_scheme import AveragingAdamW, UnifiedScheme, pareto
from pliant.training import Progress, train
from tests.techniques.distill.digits import (
    Stopped,
    batches_of,
    convnet,
    error,
    fit,
    images,
    noise,
    perceptron,
)

PLAIN = UnifiedScheme(mixup=0.0, cutmix=0.0)


def test_the_loss_is_cross_entropy_plus_five_times_the_divergence() -> None:
    student: Any = perceptron()
    teacher, (x, y) = convnet(), next(noise())
    out, goal = student(x), teacher(x).detach()
    want = F.cross_entropy(out, y)
    want = want + 5 * F.kl_div(F.log_softmax(out, -1), F.softmax(goal, -1), reduction="batchmean")
    want.backward()
    gradient = student[1].weight.grad.clone()
    before = student[1].weight.detach().clone()
    family = Family(student, (images(),))
    how = PLAIN.settings(family, [(x, y)], steps=1)
    how["optimizer"] = torch.optim.SGD(student.parameters(), lr=1.0)
    last = train(family, loss=F.cross_entropy, teacher=teacher, **how)
    assert 6 * last.loss == pytest.approx(float(want.detach()), rel=1e-5)  # told before it is weighed
    assert torch.allclose(before - student[1].weight, gradient, atol=1e-5)
    assert all(p.grad is None for p in teacher.parameters())


@pytest.mark.parametrize(("mixup", "cutmix"), [(0.8, 1.0), (0.8, 0.0), (0.0, 1.0)])
def test_images_and_labels_are_mixed_by_the_same_share(mixup: float, cutmix: float) -> None:
    scheme = UnifiedScheme(mixup=mixup, cutmix=cutmix)
    x = torch.zeros(4, 1, 8, 8)
    x[:2] = 1.0  # each image is mixed with one of the other kind
    y = torch.tensor([3, 3, 7, 7])
    kinds = set()
    mixed: Any = scheme.mixed([(x, y)] * 40, 10)
    for images_, targets in mixed:
        assert torch.allclose(targets.sum(1), torch.ones(4))
        assert torch.allclose(targets[:, 3], images_.mean((1, 2, 3)), atol=1e-5)
        assert torch.allclose(targets[:, 7], 1 - images_.mean((1, 2, 3)), atol=1e-5)
        kinds.add(bool(((images_ == 0) | (images_ == 1)).all()))
    assert kinds == {True, False} if mixup and cutmix else kinds == {bool(cutmix)}
    assert torch.equal(x[:2], torch.ones(2, 1, 8, 8))  # what was given is left as it was


def test_a_batch_is_mixed_the_same_way_wherever_a_run_begins() -> None:
    whole: Any = UnifiedScheme().mixed(noise, 10)
    listed: Any = UnifiedScheme().mixed([next(noise(k)) for k in range(6)], 10)
    from_start = [next(iter(whole(k))) for k in range(6)]
    for (a, b), (c, d), (e, f) in zip(from_start, whole(0), listed, strict=False):
        assert torch.equal(a, c)
        assert torch.equal(a, e)
        assert torch.equal(b, d)
        assert torch.equal(b, f)
    assert UnifiedScheme(mixup=0, cutmix=0).mixed(noise, 10) is noise


def test_the_average_is_that_of_the_weights_after_each_step() -> None:
    net = perceptron(8, 1)
    optimizer = AveragingAdamW(net.parameters(), lr=0.1, decay=0.8)
    wanted: list[Tensor] = []
    for step in range(5):
        net(images(4, step)).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
        now = [p.detach().clone() for p in net.parameters()]
        wanted = [0.8 * a + 0.2 * b for a, b in zip(wanted, now, strict=True)] if wanted else now
    with pytest.raises(KeyError), optimizer.averaged():
        assert all(torch.allclose(p, a, atol=1e-6) for p, a in zip(net.parameters(), wanted, strict=True))
        raise KeyError
    assert all(torch.equal(p, a) for p, a in zip(net.parameters(), now, strict=True))
    plain, twin = perceptron(8, 1), perceptron(8, 1)
    twin.load_state_dict(plain.state_dict())
    for other, made in ((plain, partial(torch.optim.AdamW, fused=True)), (twin, AveragingAdamW)):
        found: Any = made(other.parameters(), lr=0.1, weight_decay=0.02)
        for step in range(3):
            other(images(4, step)).square().mean().backward()
            found.step()
    assert all(torch.equal(a, b) for a, b in zip(plain.parameters(), twin.parameters(), strict=True))


def test_the_average_is_kept_for_groups_of_any_type_of_weights() -> None:
    real, odd = torch.nn.Parameter(torch.zeros(3)), torch.nn.Parameter(torch.ones(2, dtype=torch.complex64))
    optimizer = AveragingAdamW([{"params": [real], "lr": 0.1}, {"params": [odd], "lr": 0.0}], decay=0.5)
    assert [group["fused"] for group in optimizer.param_groups] == [True, None], "complex weights have no fused step"
    seen = []
    for _ in range(2):
        real.grad, odd.grad = torch.ones_like(real), torch.ones_like(odd)
        optimizer.step()
        seen.append(real.detach().clone())
    assert (seen[1] < seen[0]).all()
    with optimizer.averaged():
        assert torch.allclose(real, (seen[0] + seen[1]) / 2)
        assert torch.equal(odd, torch.ones_like(odd))  # at a rate of 0
    assert torch.equal(real, seen[1])


def test_killed_and_resumed_is_uninterrupted_averages_included(tmp_path: Path) -> None:
    teacher = convnet()

    def run(folder: Path, seed: int, stop: int = 0) -> list[Tensor]:
        torch.manual_seed(seed)
        net = perceptron()
        family = Family(net, (images(4),))

        def on_step(progress: Progress) -> None:
            if progress.step == stop:
                raise Stopped

        how = UnifiedScheme(averaging=0.5).settings(family, noise, steps=7)
        train(family, loss=F.cross_entropy, teacher=teacher, folder=folder, save_every=2, on_step=on_step, **how)
        weights = [p.detach().clone() for p in net.parameters()]
        with how["optimizer"].averaged():
            return weights + [p.detach().clone() for p in net.parameters()]

    whole = run(tmp_path / "a", 0)
    with pytest.raises(Stopped):
        run(tmp_path / "b", 0, stop=5)
    parts = run(tmp_path / "b", 3)
    assert all(torch.equal(a, b) for a, b in zip(whole, parts, strict=True))
    count = len(whole) // 2
    assert not torch.equal(whole[0], whole[count])


def test_the_averages_horizon_is_a_share_of_the_run() -> None:
    family = Family(perceptron(), (images(),))
    paper = UnifiedScheme().optimizer(family, 375_000)
    assert paper.decay == pytest.approx(0.99996, abs=1e-6)
    assert UnifiedScheme().optimizer(family, 1).decay == 0.0
    assert paper.param_groups[0]["lr"] == 2e-3
    assert paper.param_groups[0]["weight_decay"] == 2e-2


@pytest.mark.parametrize(
    "wrong", [{"alpha": -1.0}, {"lr": 0.0}, {"mixup": -0.1}, {"cutmix": -1.0}, {"warmup": 2.0}, {"weight_decay": -1.0}]
)
def test_wrong_fields(wrong: dict[str, Any]) -> None:
    with pytest.raises(WrongShapeError, match="UnifiedScheme needs lr > 0"):
        UnifiedScheme(**wrong)


def test_what_it_cannot_train_is_refused() -> None:
    with pytest.raises(WrongShapeError, match=r"averaging is a share of the steps, above 0; got 0"):
        UnifiedScheme(averaging=0.0)
    with pytest.raises(WrongShapeError, match="decay of a moving average"):
        AveragingAdamW(perceptron().parameters(), decay=1.0)
    family = Family(perceptron(), (images(),))
    with pytest.raises(PliantError, match=r"learns from a strong teacher; give one: pliant.train\(..., teacher="):
        train(family, loss=F.cross_entropy, **PLAIN.settings(family, noise, steps=1))
    for batch in [(images(), torch.zeros(6)[:, None]), (torch.ones(6, 8, dtype=torch.long), torch.zeros(6)), images()]:
        with pytest.raises(WrongShapeError, match="mixes batches of images"):
            list(UnifiedScheme().mixed([batch], 10))  # type: ignore[arg-type]
    maps = Family(nn.Sequential(nn.Conv2d(1, 3, 3)), (images(),))
    with pytest.raises(WrongShapeError, match=r"this network gives \[\(6, 3, 6, 6\)\]"):
        UnifiedScheme().settings(maps, noise, steps=1)


def test_the_backbones_that_no_other_beats() -> None:
    rows = {"a": (3.0, 5.0), "b": (2.0, 9.0), "c": (3.5, 6.0), "d": (9.0, 1.0), "e": (2.0, 10.0)}
    assert pareto(rows) == ["d", "a", "b"]
    assert pareto({}) == []


@cache
def strong() -> nn.Module:
    """The teacher of all kinds, trained once."""
    torch.manual_seed(100)
    return fit(convnet(16), 300)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["convolutional", "perceptron", "transformer"])
def test_unchanged_it_trains_unlike_backbones_better_than_labels(kind: str) -> None:
    """Sixty images to learn from, and a teacher that saw a thousand."""
    make: Any = {
        "convolutional": lambda: convnet(8, 2),
        "perceptron": lambda: perceptron(48, 2),
        "transformer": lambda: DigitsViT(16, 2, 2, 8, 32),
    }[kind]
    teacher = strong()
    steps, errors = 200, {"labels": 0.0, "scheme": 0.0}
    for seed in range(3):
        torch.manual_seed(seed)
        errors["labels"] += error(fit(make(), steps, count=60, lr=2e-3, seed=seed))
        torch.manual_seed(seed)
        family = Family(make(), (images(4),))
        how = UnifiedScheme().settings(family, batches_of(60), steps)
        train(family, loss=F.cross_entropy, teacher=teacher, seed=seed, **how)
        with how["optimizer"].averaged():
            errors["scheme"] += error(family.model)
    assert errors["scheme"] < 0.95 * errors["labels"], errors
