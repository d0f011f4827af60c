"""Members alias the family: weights by view or gathered copy, gradients into the family's own."""

from __future__ import annotations

import copy
import gc
import warnings
from collections.abc import Mapping
from functools import cache
from random import Random
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from pliant.family import Family
from pliant.graph.slicing import Slicing
from pliant.space import Config
from pliant.techniques.elastic.depth import Depth
from pliant.techniques.elastic.width import Width
from tests.family.nets import Branches, ConvNet, Gpt, Twice, ViT, images, tokens, vectors

CASES: dict[str, Any] = {
    "convnet": (ConvNet, images),
    "fused": (ViT, lambda: vectors(3, 4, 6)),
    "tied": (Gpt, tokens),
    "concatenation": (Branches, lambda: vectors(4, 8)),
    "twice": (Twice, lambda: vectors(4, 8)),
}


@cache
def shared(name: str) -> tuple[Any, Tensor]:
    """Return a family that tests of gradients use by turns: making one takes longer than most of them."""
    return family_of(name)


@pytest.fixture(params=CASES)
def taken(request: pytest.FixtureRequest) -> tuple[Any, Tensor]:
    """A family of every kind, without gradients, in training mode."""
    family, x = shared(request.param)
    family.model.train().zero_grad(set_to_none=True)
    return family, x


def family_of(name: str, **model: Any) -> tuple[Any, Tensor]:
    kind, inputs = CASES[name]
    choices: list[Any] = [Width(multiple=4, kinds=("width", "heads", "stream", "head_width"))]
    if name in ("convnet", "fused", "tied"):
        choices.append(Depth())
    x = inputs()
    return Family(kind(**model), (x,), choices), x


def slicing_of(family: Family, config: Mapping[str, Any]) -> Slicing:
    return family.draft(config).slicing()


def places(picks: Any, shape: Any) -> tuple[np.ndarray, ...]:
    """Return the open mesh of places that a member keeps of a tensor: an independent reading of its picks."""
    pairs = zip(picks, shape, strict=True)
    return np.ix_(*(np.arange(size)[pick if pick is not None else slice(None)] for pick, size in pairs))


def canonical(family: Family, net: nn.Module) -> dict[str, nn.Parameter]:
    aliases = family.analysis.capture.aliases
    return {aliases.get(name, name): parameter for name, parameter in net.named_parameters()}


def standalone(family: Family, config: Mapping[str, Any]) -> nn.Module:
    """Return the extracted network in the family's mode: its gradients are the reference."""
    return family.extract(config).train(family.model.training)


def expected(family: Family, config: Mapping[str, Any], x: Tensor) -> dict[str, Tensor]:
    """Return what the family's gradients must be after ``member(x).square().sum().backward()``, by extraction."""
    alone = standalone(family, config)
    alone(x).square().sum().backward()
    slicing = slicing_of(family, config)
    found = {}
    for name, parameter in family.model.named_parameters():
        full = torch.zeros_like(parameter)
        own = canonical(family, alone).get(name)
        if own is not None and own.grad is not None:
            picks = slicing.picks(name) or (None,) * parameter.dim()
            full[places(picks, parameter.shape)] = own.grad
        found[name] = full
    return found


def gradients(family: Family) -> dict[str, Tensor]:
    return {
        name: p.grad.clone() if p.grad is not None else torch.zeros_like(p)
        for name, p in family.model.named_parameters()
    }


def close(left: Mapping[str, Tensor], right: Mapping[str, Tensor]) -> None:
    assert left.keys() == right.keys()
    for name, value in left.items():
        scale = max(1.0, float(right[name].abs().max()))
        assert float((value - right[name]).abs().max()) <= 1e-6 * scale, name


def configs(family: Family, rng: Random) -> list[Config]:
    return [family.space.smallest(), family.space.sample(rng), family.space.sample(rng)]


def learn(family: Family, config: Mapping[str, Any], x: Tensor) -> None:
    family.member(config)(x).square().sum().backward()


def test_gradients_land_in_the_family_and_nowhere_else(taken: tuple[Any, Tensor], rng: Random) -> None:
    family, x = taken
    for config in configs(family, rng):
        family.model.zero_grad(set_to_none=True)
        want = expected(family, config, x)
        learn(family, config, x)
        close(gradients(family), want)


def test_gradients_of_members_add_up(taken: tuple[Any, Tensor], rng: Random) -> None:
    family, x = taken
    first, second, third = configs(family, rng)
    wanted = [expected(family, config, x) for config in (first, second, third, first)]
    for config in (first, second, third, first):
        learn(family, config, x)
    close(gradients(family), {key: sum(each[key] for each in wanted) for key in wanted[0]})  # type: ignore[misc]


def test_largest_between_smaller_ones(taken: tuple[Any, Tensor]) -> None:
    family, x = taken
    small, large = family.space.smallest(), family.space.largest()
    wanted = [expected(family, small, x), expected(family, large, x)]
    for order in ((small, large), (large, small)):
        family.model.zero_grad(set_to_none=True)
        for config in order:
            learn(family, config, x)
        close(gradients(family), {key: wanted[0][key] + wanted[1][key] for key in wanted[0]})


def test_two_forwards_before_either_backward(taken: tuple[Any, Tensor], rng: Random) -> None:
    family, x = taken
    first, second = family.space.smallest(), family.space.sample(rng)
    wanted = [expected(family, config, x) for config in (first, second)]
    losses = [family.member(config)(x).square().sum() for config in (first, second)]
    for loss in losses:
        loss.backward()
    close(gradients(family), {key: wanted[0][key] + wanted[1][key] for key in wanted[0]})


@pytest.mark.parametrize("to_none", [True, False])
def test_zero_grad_wherever_a_loop_calls_it(taken: tuple[Any, Tensor], to_none: bool) -> None:
    family, x = taken
    optimizer = torch.optim.SGD(family.parameters(), lr=0.0)
    config = family.space.smallest()
    want = expected(family, config, x)
    learn(family, config, x if x.dtype == torch.long else x + 1)  # leaves something behind
    optimizer.zero_grad(set_to_none=to_none)
    learn(family, config, x)
    close(gradients(family), want)
    loss = family.member(config)(x).square().sum()
    optimizer.zero_grad(set_to_none=to_none)  # as many loops do: between the forward and the backward
    loss.backward()
    close(gradients(family), want)


@pytest.mark.parametrize("name", ["convnet", "twice"])
def test_zero_grad_of_the_member_itself(name: str) -> None:
    family, x = family_of(name)
    config = family.space.smallest()
    want = expected(family, config, x)
    learn(family, config, x + 1)
    family.member(config).zero_grad()
    learn(family, config, x)
    close(gradients(family), want)


def test_a_member_kept_by_the_caller_needs_no_second_request() -> None:
    family, x = family_of("fused")
    config = family.space.smallest()
    net = family.member(config)
    optimizer = torch.optim.SGD(family.parameters(), lr=0.05)
    for _ in range(3):
        optimizer.zero_grad()
        want = expected(family, config, x)
        net(x).square().sum().backward()
        close(gradients(family), want)
        optimizer.step()


def test_an_optimizer_step_is_seen_by_every_member(taken: tuple[Any, Tensor], rng: Random) -> None:
    family, x = taken
    family.model.eval()
    members = {config: family.member(config) for config in configs(family, rng)}
    optimizer = torch.optim.AdamW(family.parameters(), lr=0.05)
    for _ in range(2):
        optimizer.zero_grad()
        learn(family, family.space.largest(), x)
        optimizer.step()
        for config, net in members.items():
            assert torch.equal(net(x), family.extract(config)(x))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["fused", "concatenation"])
@pytest.mark.parametrize("how", ["fused optimizer", "data in place", "data replaced", "loaded"])
def test_any_change_of_the_weights_is_seen(name: str, how: str) -> None:
    family, x = family_of(name)
    family.model.eval()
    config = family.space.smallest()
    net = family.member(config)
    before = net(x).detach()
    twin = copy.deepcopy(family.model)
    if how == "fused optimizer":
        learn(family, config, x)
        torch.optim.AdamW(family.parameters(), lr=0.1, fused=True).step()
    elif how == "data in place":  # what optimizers of others and moving averages do
        for parameter in family.parameters():
            parameter.data.mul_(1.5)
    elif how == "data replaced":
        for parameter in family.parameters():
            parameter.data = parameter.data * 1.5
    else:
        family.model.load_state_dict({key: 1.5 * value for key, value in family.model.state_dict().items()})
    for own, parameter in zip(twin.parameters(), family.parameters(), strict=True):
        own.data.copy_(parameter.data)
    fresh = Family(twin, (x,), [placed.technique for placed in family.techniques])
    after = net(x)
    assert not torch.allclose(before, after)
    assert torch.equal(after, fresh.extract(config)(x))
    assert torch.equal(after, family.extract(config)(x))


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_members_follow_the_model_to_another_dtype(name: str) -> None:
    family, x = family_of(name)
    config = family.space.smallest()
    learn(family, config, x)
    family.model.zero_grad()
    family.model.to(torch.float64)
    wide = x.double() if x.is_floating_point() else x
    want = expected(family, config, wide)
    learn(family, config, wide)
    assert all(p.dtype == torch.float64 for p in family.member(config).parameters())
    close(gradients(family), want)


def test_tied_tensors_stay_tied() -> None:
    family, x = family_of("tied")
    net = family.member(family.space.smallest())
    assert net.head.weight is net.embed.weight
    assert net.head.weight.data_ptr() == family.model.embed.weight.data_ptr()
    assert net(x).shape == (3, 6, 11)
    alone = family.extract(family.space.smallest())
    assert alone.head.weight is alone.embed.weight


def test_views_share_storage_and_copies_do_not_pile_up(rng: Random) -> None:
    family, x = family_of("fused", dim=32, depth=3)
    own = {p.untyped_storage().data_ptr() for p in family.parameters()}
    before = weight_storages()
    kept = []
    for _ in range(20):
        kept.append(family.member(family.space.sample(rng)))
        kept[-1](x).sum().backward()
    assert any(gather.own.is_meta for _, aliases in family._members.values() for gather in aliases.gathers.values())
    assert weight_storages() == before, "one copy of the weights, however many members are alive"
    one = list(kept[0].parameters())
    assert weight_storages() - before == {p.untyped_storage().data_ptr() for p in one} - own, (
        "while somebody holds them"
    )


def weight_storages() -> set[int]:
    """Return where all parameters of the process lie."""
    gc.collect()
    alive = [thing for thing in gc.get_objects() if type(thing) is nn.Parameter and not thing.is_meta]
    return {parameter.untyped_storage().data_ptr() for parameter in alive}


def gradient_storages() -> int:
    """Return the bytes of all float tensors of the process that are somebody's gradient, each storage once."""
    gc.collect()
    found: dict[int, int] = {}
    for thing in gc.get_objects():
        if type(thing) is nn.Parameter and not thing.is_meta and thing.grad is not None:
            storage = thing.grad.untyped_storage()
            found[storage.data_ptr()] = storage.nbytes()
    return sum(found.values())


@pytest.mark.slow
@pytest.mark.parametrize("name", ["convnet", "fused"])
def test_there_is_one_copy_of_the_gradients_however_many_members_have_learnt(name: str, rng: Random) -> None:
    before = gradient_storages()
    family, x = family_of(name)
    weights = sum(-(-p.nbytes // 64) * 64 for p in family.parameters())  # as torch aligns what it allocates
    optimizer = torch.optim.SGD(family.parameters(), lr=1e-3)
    for _ in range(12):
        optimizer.zero_grad(set_to_none=True)
        for config in (family.space.largest(), family.space.sample(rng), family.space.smallest()):
            learn(family, config, x)
        optimizer.step()
    assert gradient_storages() - before <= weights


def test_frozen_parameters_get_no_gradient() -> None:
    model: Any = ViT()
    model.embed.requires_grad_(False)
    model.blocks[0].attn.qkv.requires_grad_(False)
    x = vectors(3, 4, 6)
    family = Family(model, (x,), [Width(multiple=4)])
    learn(family, family.space.smallest(), x)
    assert model.embed.weight.grad is None
    assert model.blocks[0].attn.qkv.weight.grad is None
    assert model.head.weight.grad is not None


def test_inference_leaves_no_gradients_behind() -> None:
    family, x = family_of("fused")
    with torch.no_grad():
        family.member(family.space.smallest())(x)
    assert all(p.grad is None for p in family.parameters())


def test_torch_says_nothing(recwarn: pytest.WarningsRecorder) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        family, x = family_of("fused")
        learn(family, family.space.smallest(), x)
    assert not recwarn.list
