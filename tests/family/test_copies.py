"""Copies that members keep and share while a family serves, and those of the last two otherwise."""

from __future__ import annotations

import gc
from contextlib import nullcontext
from random import Random
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pliant.checks import PliantError
from pliant.family import Family
from pliant.family.indexing import Index
from pliant.space import Config
from tests.family.test_aliases import close, expected, family_of, gradients


@pytest.fixture
def fused() -> tuple[Any, Tensor]:
    """A family whose fused projections are gathered where heads are cut."""
    family, x = family_of("fused", dim=32, depth=3)
    family.model.eval()
    return family, x


def some(family: Family, rng: Random, count: int = 12) -> list[Config]:
    return [family.space.smallest(), *(family.space.sample(rng) for _ in range(count))]


def pointers(net: nn.Module) -> list[int]:
    return [p.data_ptr() for p in net.parameters()]


def held(family: Family) -> int:
    """Return the bytes of all parameters that are alive and neither the family's nor views of it."""
    own = {p.untyped_storage().data_ptr() for p in family.model.parameters()}
    alive = [o for o in gc.get_objects() if type(o) is nn.Parameter and not o.is_meta]
    return sum({p.untyped_storage().data_ptr(): p.nbytes for p in alive if p.data_ptr() not in own}.values())


def counted(monkeypatch: pytest.MonkeyPatch) -> list[Index]:
    """Learn of every copy that is made."""
    made: list[Index] = []
    take = Index.take

    def noted(self: Index, value: Tensor) -> Tensor:
        made.append(self)
        return take(self, value)

    monkeypatch.setattr(Index, "take", noted)
    return made


@pytest.mark.slow
@torch.no_grad()
def test_members_that_ran_before_are_not_gathered_again(
    fused: tuple[Any, Tensor], rng: Random, monkeypatch: pytest.MonkeyPatch
) -> None:
    family, x = fused
    chosen = some(family, rng)
    wanted = [family.extract(config)(x) for config in chosen]
    made = counted(monkeypatch)
    with family.serving(copies=100):
        counts = []
        for _ in range(2):
            for config, want in zip(chosen, wanted, strict=True):
                torch.testing.assert_close(family.member(config)(x), want)
            counts.append(len(made))
        assert counts[0] == counts[1]
    family.member(chosen[0])(x)
    assert len(made) > counts[1]


@torch.no_grad()
def test_a_written_weight_is_noticed(fused: tuple[Any, Tensor], rng: Random) -> None:
    family, x = fused
    chosen = some(family, rng, 3)
    with family.serving():
        for config in chosen:
            family.member(config)(x)
        for parameter in family.model.parameters():
            parameter.mul_(1.5)
        for config in chosen:
            torch.testing.assert_close(family.member(config)(x), family.extract(config)(x))
        family.model.double()
        for config in chosen:
            torch.testing.assert_close(family.member(config)(x.double()), family.extract(config)(x.double()))


@pytest.mark.slow
@torch.no_grad()
@pytest.mark.parametrize("limit", [0.0, 0.1, 1.0])
def test_copies_stay_within_their_limit_and_go_at_the_end(limit: float, fused: tuple[Any, Tensor], rng: Random) -> None:
    family, x = fused
    chosen = some(family, rng, 10)
    gc.collect()
    before = held(family)
    weights = sum(p.nbytes for p in family.parameters())
    nets = [family.member(config) for config in chosen]
    most = 0
    for net in nets:
        net(x)
        most = max(most, held(family) - before)
    one = max(sum(p.nbytes for p in net.parameters() if p.is_contiguous()) for net in nets)
    kept = []
    with family.serving(limit):
        for net, config in zip(nets, chosen, strict=True):
            family.member(config)(x)
            assert family.member(config) is net
            kept.append(held(family) - before)
            assert family.copied_bytes == kept[-1]
    assert max(kept) <= max(limit * weights, one)
    if limit == 1.0:
        assert kept[-1] > most
    assert family.copied_bytes == 0
    assert held(family) <= before
    for net, config in zip(nets, chosen, strict=True):
        torch.testing.assert_close(net(x), family.extract(config)(x))


def test_gradients_land_in_the_family_even_so(fused: tuple[Any, Tensor], rng: Random) -> None:
    family, x = fused
    with family.serving():
        for config in some(family, rng, 4):
            family.model.zero_grad(set_to_none=True)
            want = expected(family, config, x)
            family.member(config)(x).square().sum().backward()
            close(gradients(family), want)


def test_what_equal_members_gather_is_shared(fused: tuple[Any, Tensor]) -> None:
    family, _ = fused
    smallest = family.space.smallest()
    depth = next(choice for choice in family.space.choices if "depth" in choice.name)
    other = family.space.check({**smallest, depth.name: depth.largest})
    with family.serving():
        left, right = family.member(smallest), family.member(other)
        shared = set(pointers(left)) & set(pointers(right))
        gathered = {p.data_ptr() for n, p in left.named_parameters() if "qkv" in n}
        assert gathered
        assert gathered <= shared


def test_serving_refuses_what_makes_no_sense(fused: tuple[Any, Tensor]) -> None:
    family, _ = fused
    for bad in (-1.0, float("nan")):
        with pytest.raises(PliantError, match="0 or more"), family.serving(bad):
            pass
    with family.serving(), pytest.raises(PliantError, match="serves already"), family.serving():
        pass
    with family.serving():
        pass


@pytest.mark.parametrize("serving", [False, True])
@pytest.mark.parametrize("name", ["convnet", "fused"])
def test_what_was_first_used_in_inference_mode_can_learn(name: str, serving: bool) -> None:
    family, x = family_of(name)
    config = family.space.smallest()
    family.model.train()
    with family.serving() if serving else nullcontext():
        with torch.inference_mode():
            family.member(config)
        family.member(config)(x).square().sum().backward()
        with torch.inference_mode():
            family.member(config).eval()(x)
            alone = family.extract(config)
        family.zero_grad()
        want = expected(family, config, x)
        family.member(config).train()(x).square().sum().backward()
        close(gradients(family), want)
        alone.train()(x).square().sum().backward()
        assert all(p.grad is not None for p in alone.parameters())
