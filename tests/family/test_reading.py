"""A member's own parameters in an optimizer, clipped and cleared: as those of a network that stands alone."""

from __future__ import annotations

import gc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from pliant import Family, Width
from pliant.checks import PliantError
from pliant.family import indexing
from pliant.family.optimizers import can_fuse
from tests.family.nets import ViT, vectors

QKV = "blocks.0.attn.qkv.weight"
X = vectors(6, 4, 6)


def made() -> tuple[Family, nn.Module, nn.Module]:
    """A family, its smallest member, whose fused projections are gathered, and the same standing alone."""
    family = Family(ViT(depth=2), (X,), [Width(ratios=(0.5, 1.0), kinds=("width", "heads"))])
    config = family.space.smallest()
    return family, family.member(config), family.extract(config).train(family.model.training)


def loss(net: nn.Module, part: slice = slice(None)) -> Tensor:
    out: Tensor = net(X[part])
    return out.square().mean()


def equal(left: nn.Module, right: nn.Module) -> None:
    found, wanted = dict(left.named_parameters()), dict(right.named_parameters())
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        torch.testing.assert_close(found[name], value, rtol=1e-5, atol=1e-7)
        if value.grad is not None:
            torch.testing.assert_close(found[name].grad, value.grad, rtol=1e-5, atol=1e-7)


def cleared_first(net: nn.Module, optimizer: Any, none: bool) -> None:
    optimizer.zero_grad(set_to_none=none)
    loss(net).backward()
    optimizer.step()


def cleared_between(net: nn.Module, optimizer: Any, none: bool) -> None:
    out = loss(net)
    optimizer.zero_grad(set_to_none=none)
    out.backward()
    optimizer.step()


def accumulated_and_clipped(net: nn.Module, optimizer: Any, none: bool) -> None:
    for part in (slice(0, 3), slice(3, 6)):
        loss(net, part).backward()
    nn.utils.clip_grad_norm_(net.parameters(), 1e-2)
    optimizer.step()
    optimizer.zero_grad(set_to_none=none)


def penalised(net: nn.Module, optimizer: Any, none: bool) -> None:
    optimizer.zero_grad(set_to_none=none)
    (loss(net) + 0.1 * sum(parameter.square().sum() for parameter in net.parameters())).backward()
    optimizer.step()


LOOPS = [cleared_first, cleared_between, accumulated_and_clipped, penalised]
OPTIMIZERS: dict[str, Callable[[Any], Any]] = {
    "sgd": lambda weights: torch.optim.SGD(weights, lr=0.1, momentum=0.9),
    "adamw": lambda weights: torch.optim.AdamW(weights, lr=0.01),
}


@pytest.mark.parametrize("large", [False, True], ids=["small", "large"])
@pytest.mark.parametrize("none", [True, False], ids=["to none", "to zero"])
@pytest.mark.parametrize("optimizer", OPTIMIZERS.values(), ids=list(OPTIMIZERS))
@pytest.mark.parametrize("step", LOOPS)
def test_an_optimizer_of_a_members_parameters_trains_all_of_them(
    step: Any, optimizer: Any, none: bool, large: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if large:  # gradients of what is gathered are scattered; of little, autograd's own view has them
        monkeypatch.setattr(indexing, "_ALONE", 0)
    family, net, alone = made()
    ours, theirs = optimizer(net.parameters()), optimizer(alone.parameters())
    for _ in range(4):
        step(net, ours, none)
        step(alone, theirs, none)
    equal(net, alone)
    torch.testing.assert_close(net(X), alone(X))
    del ours
    gc.collect()
    torch.testing.assert_close(family.extract(family.space.smallest())(X), alone(X))


def test_members_that_take_turns_share_what_their_optimizers_do() -> None:
    family, small, _ = made()
    large = family.member(family.space.largest())
    optimizers = [torch.optim.SGD(net.parameters(), lr=0.1) for net in (small, large)]
    twin, _, _ = made()
    both = torch.optim.SGD(twin.parameters(), lr=0.1)
    twin.model.load_state_dict(family.model.state_dict())
    for turn in range(6):
        net, optimizer = (small, large)[turn % 2], optimizers[turn % 2]
        config = (family.space.smallest(), family.space.largest())[turn % 2]
        optimizer.zero_grad()
        loss(net).backward()
        optimizer.step()
        twin.zero_grad()
        loss(twin.member(config)).backward()
        both.step()
    torch.testing.assert_close(small(X), twin.member(twin.space.smallest())(X))
    torch.testing.assert_close(large(X), twin.member(twin.space.largest())(X))


def test_the_norm_of_a_members_gradients_is_clipped_where_the_family_learns() -> None:
    family, net, alone = made()
    for each in (net, alone):
        loss(each).backward()
        norm = nn.utils.clip_grad_norm_(each.parameters(), 1e-3)
    assert float(nn.utils.get_total_norm([p.grad for p in family.parameters() if p.grad is not None])) == pytest.approx(
        1e-3, rel=1e-3
    )
    assert float(norm) > 1e-2
    torch.optim.SGD(family.parameters(), lr=1.0).step()
    torch.optim.SGD(alone.parameters(), lr=1.0).step()
    torch.testing.assert_close(net(X), alone(X))


def test_gradients_asked_for_by_themselves_do_not_reach_the_family() -> None:
    family, net, _ = made()
    names = [name for name, _ in net.named_parameters()]
    held = dict(net.named_parameters())
    penalty = torch.stack([value.square().sum() for value in held.values()]).sum()
    found = torch.autograd.grad(penalty, list(held.values()))
    assert all(torch.equal(slope, 2 * held[name]) for name, slope in zip(names, found, strict=True))
    assert all(p.grad is None or p.grad.count_nonzero() == 0 for p in family.parameters())


def test_a_fused_optimizer_of_views_is_refused_before_it_writes() -> None:
    family, net, _ = made()
    before = {name: value.clone() for name, value in family.model.state_dict().items()}
    assert not can_fuse(net.parameters())
    assert can_fuse(family.parameters())
    optimizer = torch.optim.AdamW(net.parameters(), fused=True)
    loss(net).backward()
    with pytest.raises(PliantError, match=r"a fused AdamW takes views, .* family.parameters\(\), or fused=False"):
        optimizer.step()
    assert all(torch.equal(value, before[name]) for name, value in family.model.state_dict().items())
    torch.optim.AdamW(family.parameters(), fused=True).step()
    largest = family.member(family.space.largest())
    torch.optim.SGD(largest.parameters(), lr=0.1, fused=True).step()  # nothing is left out of what they view
    torch.optim.AdamW(family.extract(family.space.smallest()).parameters(), fused=True).step()


def test_a_fused_optimizer_may_step_on_any_order_of_dimensions() -> None:
    made()  # from the first member on optimizers are looked at
    whole = nn.Parameter(torch.zeros(3, 4, 5, 6).to(memory_format=torch.channels_last))
    turned = nn.Parameter(torch.zeros(4, 5).T)
    for weight in (whole, turned):
        weight.grad = torch.ones_like(weight)
    assert can_fuse([whole, turned])
    torch.optim.SGD([whole, turned], lr=1.0, fused=True).step()
    assert bool((whole == -1).all())
    assert bool((turned == -1).all())


def test_parameters_are_saved_without_what_watches_them(tmp_path: Path) -> None:
    _, net, _ = made()
    torch.save(dict(net.named_parameters()), tmp_path / "weights.pt")
    stored = torch.load(tmp_path / "weights.pt", weights_only=True)
    assert all(torch.equal(value, stored[name]) for name, value in net.named_parameters())


def test_what_is_written_through_data_reaches_the_family() -> None:
    family, net, _ = made()
    config = family.space.smallest()
    for parameter in net.parameters():  # as for the clipped weights of a Wasserstein critic
        parameter.data.clamp_(-0.01, 0.01)
    assert all(float(p.detach().abs().max()) <= 0.01 for p in family.extract(config).parameters())
    held = list(net.parameters())
    for parameter in held:
        parameter.data.mul_(2.0)
    net(X)
    assert all(torch.equal(a, b) for a, b in zip(held, family.extract(config).parameters(), strict=True))


@pytest.mark.filterwarnings("error")
def test_weights_that_are_no_numbers_are_written_once() -> None:
    family, net, _ = made()
    held, full = dict(net.named_parameters())[QKV], family.model.get_parameter(QKV)
    with torch.no_grad():
        held[0, 0] = torch.nan
    net(X)
    version = full._version
    net(X)
    assert full._version == version
    assert int(full.isnan().sum()) == 1


def test_what_is_let_go_of_while_something_is_traced_is_no_part_of_it() -> None:
    family, net, _ = made()
    full = family.model.get_parameter(QKV)

    class Careless(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            held.clear()
            return x + 1

    held = [dict(net.named_parameters())[QKV]]
    held[0].data.fill_(3.0)
    program = torch.export.export(Careless(), (X,))
    assert [node.op for node in program.graph.nodes] == ["placeholder", "call_function", "output"]
    assert int((full == 3.0).sum()) == 24 * 16
    held.append(dict(net.named_parameters())[QKV])
    held[0].data.fill_(4.0)
    with FakeTensorMode(allow_non_fake_inputs=True), torch.no_grad():
        assert net(X).shape == (6, 5)
    assert int((full == 4.0).sum()) == 24 * 16, "the forward does to the family what was done to the copy"
