"""Members as any module: their state is read and written, they are copied, frozen, thawed, moved, run by threads."""

from __future__ import annotations

import copy
import pickle
import threading
from random import Random
from typing import Any

import pytest
import torch
from torch import Tensor

from pliant import Depth, Family, MixtureOfSupernets, PliantError, Width
from pliant.family.indexing import Index
from tests.family.nets import ConvNet, ViT, images, vectors

KINDS = ("width", "heads")


def fused(choices: tuple[Any, ...] = ()) -> tuple[Family, Tensor]:
    """A family whose members gather (fused projections), and its input."""
    x = vectors(3, 4, 6)
    family = Family(ViT(depth=2 if choices else 1), (x,), [Width(ratios=(0.5, 1.0), multiple=4, kinds=KINDS), *choices])
    family.model.eval()
    return family, x


def gradients(family: Family) -> dict[str, Tensor]:
    return {n: p.grad.clone() for n, p in family.model.named_parameters() if p.grad is not None}


def test_the_state_of_a_member_at_rest() -> None:
    family, x = fused((Depth(),))
    net, wanted = family.member(family.space.smallest()), family.extract(family.space.smallest()).state_dict()
    net(x)
    with torch.no_grad():
        for parameter in family.parameters():
            parameter.data.mul_(0.5)  # leaves no trace in its version
    state = net.state_dict()
    assert state.keys() == wanted.keys()
    assert all(torch.equal(value, 0.5 * wanted[name]) for name, value in state.items())
    parameters = dict(net.named_parameters())
    assert parameters.keys() <= state.keys()
    assert all(torch.equal(value, state[name]) for name, value in parameters.items())


def test_a_state_that_is_loaded_into_a_member_reaches_the_family() -> None:
    family, x = fused()
    config = family.space.smallest()
    net, other = family.member(config), family.extract(config)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.mul_(0.5)
    before = {name: value.clone() for name, value in family.model.state_dict().items()}
    net.load_state_dict(other.state_dict())
    assert torch.equal(net(x), other(x))
    assert torch.equal(family.extract(config)(x), other(x))
    slicing = family.draft(config).slicing()
    for name, value in family.model.state_dict().items():
        changed, inside = value != before[name], torch.zeros_like(value)
        inside.view(-1)[slicing.cut(name, torch.arange(value.numel()).view(value.shape)).flatten()] = 1
        assert not (changed & (inside == 0)).any(), f"{name}: written outside the member"


def test_other_weights_for_one_call() -> None:
    family, x = fused()
    net = family.member(family.space.smallest())
    net(x)
    other = {name: 0.5 * value.detach() for name, value in net.named_parameters()}
    alone = family.extract(family.space.smallest())
    wanted = torch.func.functional_call(alone, other, (x,))
    assert torch.equal(torch.func.functional_call(net, other, (x,)), wanted)
    assert torch.equal(net(x), alone(x)), "and its own ones again"
    slope = torch.func.grad(lambda values: torch.func.functional_call(net, values, (x,)).sum())(other)
    alone.load_state_dict(other, strict=False)
    alone(x).sum().backward()
    for name, parameter in alone.named_parameters():
        torch.testing.assert_close(slope[name], parameter.grad)


def test_clearing_a_members_own_gradients_clears_what_it_scattered() -> None:
    family, x = fused()
    net = family.member(family.space.smallest())
    net(x).sum().backward()
    wanted = gradients(family)
    family.zero_grad()
    net(x + 1).sum().backward()
    net.zero_grad()
    net(x).sum().backward()
    found = gradients(family)
    assert wanted["blocks.0.attn.qkv.weight"].any()
    for name, value in wanted.items():
        torch.testing.assert_close(found[name], value)


def test_clearing_a_members_gradients_leaves_those_of_others() -> None:
    family, x = fused()
    large, small = family.member(family.space.largest()), family.member(family.space.smallest())
    small(x).sum().backward()
    large(x).sum().backward()
    name = "blocks.0.attn.qkv.weight"
    slicing = family.draft(family.space.smallest()).slicing()
    before = gradients(family)[name]
    small.zero_grad()
    small(0 * x).sum().mul(0).backward()
    after = gradients(family)[name]
    assert not slicing.cut(name, after).any()
    assert after.any(), "what only the large one wrote"
    assert torch.equal(after[after != 0], before[after != 0])


@pytest.mark.parametrize("large", [False, True])
def test_layers_that_are_frozen_and_thawed_later(large: bool) -> None:
    family, x = fused()
    if large:  # buffers that are worth counting
        x = images()
        family = Family(ConvNet(160, 160, 1), (x,), [Width(ratios=(0.5, 1.0))])
    model: Any = family.model.eval()
    model.requires_grad_(False)
    net = family.member(family.space.smallest())
    assert not net(x).requires_grad
    model.requires_grad_(True)
    net(x).square().sum().backward()
    alone = family.extract(family.space.smallest())
    alone(x).square().sum().backward()
    slicing = family.draft(family.space.smallest()).slicing()
    for name, parameter in alone.named_parameters():
        torch.testing.assert_close(slicing.cut(name, gradients(family)[name]), parameter.grad)
    for part in (model.blocks[0], model.head):
        part.requires_grad_(False)
    family.zero_grad()
    net(x).square().sum().backward()
    learning = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert gradients(family).keys() == learning
    assert {name for name, parameter in net.named_parameters() if parameter.requires_grad} == learning


def test_a_member_that_is_moved_by_itself_says_what_to_do_instead() -> None:
    family, x = fused()
    config = family.space.smallest()
    net = family.member(config).double()
    with pytest.raises(PliantError, match=r"move family\.model, and members follow"):
        net(x.double())
    assert torch.equal(family.member(config)(x), family.extract(config)(x)), "the family has another"
    family.model.double()
    assert family.member(config)(x.double()).dtype == torch.float64


def test_copies_of_a_member_are_nobodys_members() -> None:
    family, x = fused()
    net = family.member(family.space.smallest())
    wanted = net(x).detach()
    twin = copy.deepcopy(net)
    assert torch.equal(twin(x), wanted)
    twin(x).sum().backward()
    assert not any(value.any() for value in gradients(family).values())
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter.zero_()
    assert torch.equal(net(x), wanted)
    assert not twin(x).any()


def test_pickling_says_what_to_do_instead() -> None:
    family, _ = fused()
    with pytest.raises(PliantError, match=r"take family\.extract\(config\)"):
        pickle.dumps(family.member(family.space.smallest()))
    with pytest.raises(PliantError, match=r"family\.save\(folder\)"):
        pickle.dumps(family)


def test_a_copy_of_a_family_has_weights_of_its_own() -> None:
    family, x = fused((Depth(),))
    family.prepare()
    twin = copy.deepcopy(family)
    assert twin.prepared
    assert twin.space.digest == family.space.digest
    config = family.space.smallest()
    wanted = family.extract(config)(x)
    assert torch.equal(twin.extract(config)(x), wanted)
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter.mul_(0.5)
    assert torch.equal(family.member(config)(x), wanted)
    assert not torch.equal(twin.member(config)(x), wanted)


def test_nothing_is_gathered_for_blocks_that_are_left_out() -> None:
    family, x = fused((Depth(least=0.5),))
    config = family.space.complete({**family.space.smallest(), "blocks.depth": 1})
    family.member(config)(x)
    _, aliases = family._members[family.space.check(config)]
    assert aliases.gathers
    assert not [name for name in aliases.gathers if name.startswith("blocks.1")]
    family.member(config)(x).sum().backward()
    gradient = gradients(family)["blocks.1.attn.qkv.weight"]
    assert not gradient.any(), "zero, as all that a member lacks"


@pytest.mark.parametrize("serving", [False, True])
def test_threads_that_switch_between_members(serving: bool) -> None:
    family, x = fused((Depth(),))
    rng = Random(0)
    configs = list({family.space.sample(rng) for _ in range(8)})
    wanted = {config: family.extract(config)(x) for config in configs}
    wrong: list[Any] = []

    def work(seed: int) -> None:
        mine = Random(seed)
        try:
            with torch.no_grad():
                for _ in range(40):
                    config = mine.choice(configs)
                    if not torch.equal(family.member(config)(x), wanted[config]):
                        wrong.append(config)
        except Exception as error:  # noqa: BLE001  (whatever a thread meets)
            wrong.append(error)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    with family.serving(0.05) if serving else torch.no_grad():
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert not wrong, wrong[:2]


def test_one_thread_at_a_time_decides_which_copies_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    family, x = fused((Depth(),))
    gather, gathering, go_on = Index.take, threading.Event(), threading.Event()

    def slowly(index: Index, value: Tensor) -> Tensor:
        gathering.set()
        assert go_on.wait(60)
        return gather(index, value)

    monkeypatch.setattr(Index, "take", slowly)
    first = threading.Thread(target=torch.no_grad()(family.member(family.space.smallest())), args=(x,))
    second = threading.Thread(target=family.member(family.space.largest()), args=(x,))  # has nothing to gather
    third = threading.Thread(target=family.ready, args=(family.space.largest(),))
    for thread in (first, second, third):
        thread.start()
        assert gathering.wait(60)
    second.join(60)
    assert not second.is_alive(), "forwards go on"
    third.join(0.2)
    assert third.is_alive(), "it waits until the first has its copies"
    go_on.set()
    for thread in (first, third):
        thread.join(60)
        assert not thread.is_alive()


@pytest.mark.parametrize("first", [True, False])
def test_a_forward_that_a_hook_ends_keeps_no_copies(first: bool) -> None:
    """Whether the hook of one's own comes before the member's or after it."""
    family, x = fused((Depth(),))
    config = family.space.smallest()
    net, (_, aliases) = family.member(config), family._members[config]
    assert aliases.gathers

    def stop(module: Any, args: Any) -> None:
        raise RuntimeError("stopped")

    handle = net.register_forward_pre_hook(stop, prepend=first)
    with pytest.raises(RuntimeError, match="stopped"):
        net(x)
    handle.remove()
    for _ in range(2):
        assert all(gather.own.is_meta for gather in aliases.gathers.values())
        net(x)


def test_added_parameters_follow_a_model_without_buffers() -> None:
    family, x = fused((MixtureOfSupernets(),))
    config = family.space.smallest()
    family.member(config)(x)
    family.model.double()
    assert torch.equal(family.member(config)(x.double()), family.extract(config)(x.double()))
    assert {parameter.dtype for parameter in family.parameters()} == {torch.float64}
