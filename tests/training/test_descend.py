"""Losses of a recipe's own in a training step: gradients, parts, parameters beside the family, mere measuring."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pliant.checks import TrainingDivergedError, WrongShapeError
from pliant.training import Compute, TrainingStep
from pliant.training.compute import Parts
from pliant.training.course import Course
from tests.training.toy import batch, loss, mlp


def test_the_gradient_is_that_of_plain_autograd_averaged_over_parts() -> None:
    family, scale = mlp(dropout=0.0), nn.Parameter(torch.tensor(2.0))
    smallest, rows = family.space.smallest(), [batch(k) for k in range(3)]

    def own(inputs: Tensor) -> Tensor:
        return scale * family.member(smallest)(inputs).square().mean()

    turn = TrainingStep(family, Parts(rows), loss)
    turn.descend(smallest, own, [scale])
    net = family.extract(smallest)
    wanted = torch.stack([net(x).square().mean() for x, _ in rows]).mean()
    (2.0 * wanted).backward()
    assert turn.losses[smallest] == pytest.approx(2.0 * float(wanted.detach()))
    assert scale.grad is not None
    assert float(scale.grad) == pytest.approx(float(wanted.detach()))
    for name, parameter in net.named_parameters():
        found = family.model.get_parameter(name).grad
        assert found is not None
        part = found[tuple(slice(size) for size in parameter.shape)]
        assert torch.allclose(part, parameter.grad, atol=1e-6)
        assert float(found.abs().sum()) == pytest.approx(float(part.abs().sum()))
    assert turn.learnt == [smallest]


def test_a_loss_without_a_history_is_measured_alone() -> None:
    family = mlp(dropout=0.0)
    turn = TrainingStep(family, batch(0), loss)
    turn.descend(family.space.smallest(), lambda inputs: inputs.square().mean())
    assert turn.losses == {family.space.smallest(): pytest.approx(float(batch(0)[0].square().mean()))}
    assert not turn.learnt
    assert turn.watched == [family.space.smallest()]
    assert all(p.grad is None for p in family.parameters())


def test_it_runs_in_the_formats_of_the_run() -> None:
    family, seen = mlp(dropout=0.0), []

    def own(inputs: Tensor) -> Tensor:
        outputs = family.member(family.space.largest())(inputs)
        seen.append(outputs.dtype)
        return outputs.float().square().mean()

    course = Course(family, loss, compute=Compute(precision="bfloat16"))
    TrainingStep(family, batch(0), loss, course=course).descend(family.space.largest(), own)
    assert seen == [torch.bfloat16]
    assert all(p.grad is not None and p.grad.dtype == torch.float32 for p in family.parameters())


def test_float16_gradients_beside_the_family_are_as_they_would_be_in_float32() -> None:
    family, scale = mlp(dropout=0.0), nn.Parameter(torch.tensor(2.0))
    course = Course(family, loss, compute=Compute(precision="float16"))
    turn = TrainingStep(family, batch(0), loss, course=course)
    turn.descend(family.space.largest(), lambda inputs: scale.square(), [scale])
    assert scale.grad is not None
    assert float(scale.grad) == pytest.approx(4.0)
    scale.grad = None
    turn.descend(family.space.largest(), lambda inputs: scale * 1e38 / 1e38 * torch.tensor(1e36), [scale])
    assert scale.grad is None  # scaled, it overflowed


@pytest.mark.parametrize(
    ("value", "error", "words"),
    [
        (torch.zeros(2), WrongShapeError, r"loss\(inputs\) gave a tensor of shape \(2,\)"),
        (1.0, WrongShapeError, r"loss\(inputs\) gave 1.0"),
        (torch.tensor(float("nan")), TrainingDivergedError, "the loss of member .* is nan at step 0"),
    ],
)
def test_wrong_losses(value: Any, error: type[Exception], words: str) -> None:
    family = mlp()
    with pytest.raises(error, match=words):
        TrainingStep(family, batch(0), loss).descend(family.space.largest(), lambda inputs: value)
