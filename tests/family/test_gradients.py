"""Clearing gradients where members wrote, and all of them where somebody else may have."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache
from random import Random
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pliant.family import Family
from pliant.family.gradients import GradientStore
from pliant.training.step import gradient_norm
from tests.family.test_aliases import CASES, close, expected, family_of, gradients, learn


@pytest.fixture(autouse=True, params=[0, GradientStore.worth_counting], ids=["counted", "together"])
def counting(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """Keep count of the smallest buffers too, as of large ones; or clear these small ones together."""
    monkeypatch.setattr(GradientStore, "worth_counting", request.param)
    return int(request.param)


@cache
def shared(name: str, counting: int) -> tuple[Any, Tensor]:
    """Return a family that these tests use by turns."""
    return family_of(name)


def taken(name: str) -> tuple[Any, Tensor]:
    family, x = shared(name, GradientStore.worth_counting)
    family.model.train().zero_grad(set_to_none=True)
    return family, x


@pytest.mark.parametrize("name", CASES)
def test_each_step_starts_from_nothing_whichever_members_learnt(name: str, rng: Random) -> None:
    family, x = taken(name)
    ends = [family.space.smallest(), family.space.largest()]
    for at in range(6):
        before = [p.grad for p in family.parameters()]
        family.zero_grad(set_to_none=at < 2)
        if at < 2:
            assert all(p.grad is None for p in family.parameters())
        else:
            assert all(p.grad is was for p, was in zip(family.parameters(), before, strict=True))
            assert not any(bool(p.grad.any()) for p in family.parameters() if p.grad is not None)
        chosen = [rng.choice(ends), family.space.sample(rng), family.space.sample(rng)][: rng.randint(1, 3)]
        wanted = [expected(family, config, x) for config in chosen]
        for config in chosen:
            learn(family, config, x)
        close(gradients(family), {key: torch.stack([each[key] for each in wanted]).sum(0) for key in wanted[0]})


def _directly(family: Family, x: Tensor) -> None:
    family.model(x).square().sum().backward()  # beside the family, past its members


def _noise(family: Family, x: Tensor) -> None:
    for parameter in family.parameters():
        if parameter.grad is not None:
            parameter.grad.add_(1.0)


def _clipped(family: Family, x: Tensor) -> None:
    nn.utils.clip_grad_norm_(family.parameters(), 1e-3)


def _replaced(family: Family, x: Tensor) -> None:
    for parameter in family.parameters():
        parameter.grad = torch.ones_like(parameter)
    learn(family, family.space.smallest(), x)


def _own_cleared(family: Family, x: Tensor) -> None:
    net = family.member(family.space.smallest())
    net.zero_grad()
    net(x).square().sum().backward()


def _twice(family: Family, x: Tensor) -> None:
    loss = family.member(family.space.smallest())(x).square().sum()
    loss.backward(retain_graph=True)
    loss.backward()


def _between(family: Family, x: Tensor) -> None:
    loss = family.member(family.space.smallest())(x).square().sum()
    family.zero_grad()
    loss.backward()


def _many(family: Family, x: Tensor) -> None:
    rng = Random(1)
    for _ in range(40):
        learn(family, family.space.sample(rng), x)


def _moved(family: Family, x: Tensor) -> None:
    learn(family, family.space.largest(), x)
    family.model.double()  # takes the gradients along, to other memory
    family.zero_grad()
    family.model.float()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["convnet", "fused", "tied"])
@pytest.mark.parametrize(
    "write",
    [_moved, _directly, _noise, _clipped, _replaced, _own_cleared, _twice, _between, _many],
    ids=lambda f: f.__name__,
)
def test_writes_of_others_are_noticed(name: str, write: Callable[[Family, Tensor], None], rng: Random) -> None:
    family, x = taken(name)
    smallest = family.space.smallest()
    for config, none in ((smallest, True), (family.space.sample(rng), False), (smallest, False)):
        family.zero_grad()
        learn(family, smallest, x)
        write(family, x)
        family.zero_grad(none)
        want = expected(family, config, x)
        learn(family, config, x)
        close(gradients(family), want)


@pytest.mark.slow
@pytest.mark.parametrize("counting", [0], indirect=True)
def test_what_a_small_member_wrote_is_all_that_is_cleared(rng: Random) -> None:
    family, x = family_of("fused", dim=32, depth=3)
    store: Any = family.gradients
    family.model.train()
    for _ in range(3):
        family.zero_grad()
        learn(family, family.space.smallest(), x)
        with store.scaling():
            nn.utils.clip_grad_norm_(family.parameters(), 1e-3)
    held = [p for p in family.parameters() if p.grad is not None and p.dim() == 2]
    assert held
    for parameter in held:
        buffer = store.buffer(parameter)
        assert buffer.counted
        assert sum(part.numel() for part in buffer.written) < parameter.numel()
        buffer.tensor.data[-1, -1] = 7.0  # leaves no trace, and lies in no small member
    family.zero_grad()
    assert all(store.buffer(p).tensor[-1, -1] == 7.0 for p in held)
    learn(family, family.space.smallest(), x)
    torch.optim.SGD(family.parameters()).zero_grad()  # what is documented for such writes
    want = expected(family, family.space.smallest(), x)
    learn(family, family.space.smallest(), x)
    close(gradients(family), want)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_what_is_not_finite_is_gone_with_the_next_step(bad: float) -> None:
    family, x = taken("fused")
    learn(family, family.space.smallest(), x * bad)
    with family.gradients.scaling():
        assert not math.isfinite(gradient_norm(family.parameters(), 1e-3))
    family.zero_grad()
    want = expected(family, family.space.largest(), x)
    learn(family, family.space.largest(), x)
    close(gradients(family), want)


def test_a_buffer_follows_its_parameter_to_another_shape_and_type() -> None:
    store, parameter = GradientStore(), nn.Parameter(torch.zeros(3, 4))
    first = store.of(parameter)
    assert store.of(parameter) is first
    parameter.grad = None
    assert store.of(parameter) is first
    parameter.grad = None
    parameter.data = torch.zeros(2, 5, dtype=torch.float64)
    assert store.of(parameter).shape == (2, 5)
    assert store.of(parameter).dtype == torch.float64


@pytest.mark.parametrize("none", [True, False], ids=["none", "zero"])
@pytest.mark.parametrize("part", ["", "head"], ids=["all", "head"])
def test_gradients_that_a_moved_model_took_along_are_cleared_too(part: str, none: bool) -> None:
    family, x = family_of("fused")
    smallest = family.space.smallest()
    learn(family, smallest, x)
    family.model.get_submodule(part).double()  # their gradients, all of them or some, lie elsewhere now
    family.zero_grad(none)
    assert not any(bool(family.gradients.buffer(p).tensor.any()) for p in family.parameters())
    family.model.double()
    want = expected(family, smallest, x.double())
    learn(family, smallest, x.double())
    close(gradients(family), want)


def test_small_gradients_lie_aligned_in_one_memory_and_do_not_overlap() -> None:
    held = [nn.Parameter(torch.ones(shape)) for shape in ((3, 5), (), (0,), (7,), (2, 2))]
    held.append(nn.Parameter(torch.ones(5, dtype=torch.float64)))
    store: Any = GradientStore()
    store.worth_counting = 1 << 18
    store.attach(held)
    for at, parameter in enumerate(held):
        assert parameter.grad is not None
        assert parameter.grad.shape == parameter.shape
        assert parameter.grad.dtype == parameter.dtype
        assert parameter.grad.data_ptr() % 64 == 0
        parameter.grad += at + 1
    for at, parameter in enumerate(held):
        assert parameter.grad is not None
        assert parameter.grad.eq(at + 1).all()
    own = [parameter.grad for parameter in held if parameter.grad is not None and parameter.numel()]
    assert len({gradient.untyped_storage().data_ptr() for gradient in own}) == 2, "one memory for each type"
    store.clear(held)
    store.attach(held[:2])
    assert not any(bool(store.buffer(parameter).tensor.any()) for parameter in held)


def test_a_gradient_of_autograds_own_is_taken_over() -> None:
    store, parameter = GradientStore(), nn.Parameter(torch.zeros(3))
    parameter.sum().backward()
    taken = store.of(parameter)
    assert parameter.grad is taken
    assert taken.tolist() == [1.0, 1.0, 1.0]
