"""One training step: the distillation loss against a hand-written one, and gradients that add up."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from pliant.checks import WrongShapeError
from pliant.training import TrainingStep, distillation_loss
from pliant.training.step import gradient_norm
from tests.training.toy import batch, loss, mlp


def divergence(student: Tensor, teacher: Tensor, temperature: float) -> float:
    """Kullback-Leibler divergence of the teacher's softened distribution from the student's, in plain Python."""
    total = 0.0
    rows = list(zip(student.reshape(-1, student.shape[-1]), teacher.reshape(-1, teacher.shape[-1]), strict=True))
    for ours, theirs in rows:
        left = [math.exp(float(v) / temperature) for v in ours]
        right = [math.exp(float(v) / temperature) for v in theirs]
        p, q = [v / sum(left) for v in left], [v / sum(right) for v in right]
        total += sum(b * math.log(b / a) for a, b in zip(p, q, strict=True))
    return total / len(rows) * temperature**2


@pytest.mark.parametrize("temperature", [1.0, 2.5])
@pytest.mark.parametrize("shape", [(4, 5), (2, 3, 5), (2, 2, 2, 3)])
def test_distillation_is_the_divergence_from_the_teacher(shape: tuple[int, ...], temperature: float) -> None:
    student, teacher = torch.randn(shape), 2 * torch.randn(shape)
    found = float(distillation_loss(student, teacher, temperature))
    assert found == pytest.approx(divergence(student, teacher, temperature), rel=1e-4)
    assert float(distillation_loss(teacher, teacher, temperature)) == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("shape", [(6,), (6, 1), (2, 3, 1), ()])
def test_single_numbers_are_compared_by_their_squares(shape: tuple[int, ...]) -> None:
    student, teacher = torch.randn(shape), torch.randn(shape)
    assert torch.allclose(distillation_loss(student, teacher), (student - teacher).square().mean())


def test_outputs_in_containers_add_up() -> None:
    a, b, c, d = (torch.randn(4, 3) for _ in range(4))
    labels = torch.zeros(4, dtype=torch.long)
    found = distillation_loss({"x": a, "y": (b, labels)}, {"x": c, "y": (d, labels + 1)})
    assert torch.allclose(found, distillation_loss(a, c) + distillation_loss(b, d))


@pytest.mark.parametrize(
    ("student", "teacher"),
    [
        (torch.zeros(4, 3), torch.zeros(4, 5)),
        (torch.zeros(4, 3), torch.zeros(3, 4)),
        ((torch.zeros(4, 3), torch.zeros(4, 3)), torch.zeros(4, 3)),
        (torch.zeros(4, dtype=torch.long), torch.zeros(4, dtype=torch.long)),
    ],
)
def test_outputs_that_do_not_match(student: Any, teacher: Any) -> None:
    with pytest.raises(WrongShapeError, match="do not match the teacher's"):
        distillation_loss(student, teacher)


def test_no_gradient_reaches_the_teacher() -> None:
    family = mlp(dropout=0.0)
    step = TrainingStep(family, batch(0), loss)
    outputs = step.learn(family.space.largest())
    assert not outputs.outputs.requires_grad
    family.model.zero_grad()
    step.learn(family.space.smallest(), teacher=outputs, share=1.0)
    assert float(family.model.fc2.weight.grad[4:].abs().sum()) == 0


@pytest.mark.parametrize(("share", "weight"), [(1.0, 1.0), (0.25, 1.0), (0.0, 1.0), (0.5, 3.0)])
def test_the_loss_is_shared_between_labels_and_teacher(share: float, weight: float) -> None:
    family, (x, y) = mlp(dropout=0.0), batch(0)
    config = family.space.smallest()
    teacher = family.member(family.space.largest())(x).detach()
    alone = family.extract(config)
    outputs = alone(x)
    want = share * distillation_loss(outputs, teacher, 2.0) + (1 - share) * loss(outputs, y)
    (weight * want).backward()
    step = TrainingStep(family, (x, y), loss)
    step.learn(config, teacher=teacher, share=share, temperature=2.0, weight=weight)
    assert step.losses[config] == pytest.approx(float(want.detach()), rel=1e-5)
    parameters: Any = dict(alone.named_parameters())
    own: Any = dict(family.member(config).named_parameters())
    for name, parameter in parameters.items():
        assert torch.allclose(own[name].grad, parameter.grad, atol=1e-6), name


def test_members_drawn_depend_on_the_seed_and_the_step_only() -> None:
    family = mlp()

    def drawn(step: int, seed: int) -> list[Any]:
        turn = TrainingStep(family, batch(0), loss, step, seed)
        return [turn.space.sample(turn.rng) for _ in range(5)]

    assert drawn(3, 1) == drawn(3, 1)
    assert drawn(3, 1) != drawn(4, 1)
    assert drawn(3, 1) != drawn(3, 2)


def test_without_an_optimizer_at_hand_an_update_leaves_the_gradients_to_add_up() -> None:
    family = mlp(dropout=0.0)
    step = TrainingStep(family, batch(0), loss)
    step.learn(family.space.smallest())
    before = family.model.fc2.weight.grad.clone()
    step.update()
    step.learn(family.space.smallest())
    assert torch.allclose(family.model.fc2.weight.grad, 2 * before)


def test_gradient_norm() -> None:
    parameters = [torch.nn.Parameter(torch.zeros(2)), torch.nn.Parameter(torch.zeros(3))]
    assert gradient_norm(parameters, 1.0) == 0
    parameters[0].grad, parameters[1].grad = torch.tensor([3.0, 0.0]), torch.tensor([0.0, 4.0, 0.0])
    assert gradient_norm(parameters, None) == 5
    assert gradient_norm(parameters, 1.0) == 5
    assert gradient_norm(parameters, None) == pytest.approx(1.0, rel=1e-4)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_norm_that_is_not_finite_leaves_the_gradients_alone(bad: float) -> None:
    parameter = torch.nn.Parameter(torch.zeros(3))
    parameter.grad = torch.tensor([0.0, bad, 2.0])
    assert not math.isfinite(gradient_norm([parameter], 1.0))
    assert parameter.grad[::2].tolist() == [0.0, 2.0]
