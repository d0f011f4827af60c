"""Gathered parameters: read at rest, put back, copied, and used inside of what torch wraps around a call."""

from __future__ import annotations

import copy
import gc
import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, jacrev, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.checkpoint import checkpoint

from pliant import Family, Width
from pliant.checks import NoEffectWarning
from pliant.family.gathered import Parameters
from tests.family.nets import ViT, vectors
from tests.family.test_aliases import close, expected, family_of, gradients

QKV = "blocks.0.attn.qkv.weight"


@pytest.fixture
def cut() -> tuple[Family, nn.Module, nn.Module, Tensor]:
    """A family, its smallest member, whose fused projections are gathered, the same standing alone, and an input."""
    x = vectors(3, 4, 6)
    family = Family(ViT(depth=2), (x,), [Width(ratios=(0.5, 1.0), multiple=4, kinds=("width", "heads"))])
    family.model.eval()
    config = family.space.smallest()
    return family, family.member(config), family.extract(config), x


Cut = tuple[Family, nn.Module, nn.Module, Tensor]


def attention(net: nn.Module) -> Any:
    return net.get_submodule("blocks.0.attn.qkv")


def alive() -> int:
    """Return how many weights of this shape there are."""
    gc.collect()
    found = [thing for thing in gc.get_objects() if type(thing) in (Tensor, nn.Parameter) and thing.shape == (24, 16)]
    return sum(thing.requires_grad and not thing.is_meta for thing in found)


def test_every_way_of_reading_gives_the_values(cut: Cut) -> None:
    _, net, alone, _ = cut
    wanted = attention(alone).weight
    module = attention(net)
    store: Any = module._parameters
    assert isinstance(store, Parameters)
    ways = [
        module.get_parameter("weight"),
        net.get_parameter(QKV),
        store["weight"],
        store.get("weight"),
        dict(store)["weight"],
        {**store}["weight"],
        store.copy()["weight"],
        dict(store.items())["weight"],
        list(store.values())[list(store).index("weight")],
        dict(net.named_parameters())[QKV],
        net.state_dict()[QKV],
        net.state_dict(keep_vars=True)[QKV],
        copy.deepcopy(store)["weight"],
    ]
    assert all(torch.equal(found, wanted) for found in ways)
    assert store.get("wieght") is None
    assert store.pop("wieght", 3) == 3
    with pytest.raises(KeyError):
        store.pop("wieght")
    with pytest.raises(KeyError):
        store["wieght"]
    assert type(copy.deepcopy(store)) is dict
    assert torch.equal(store.pop("weight"), wanted)
    assert "weight" not in store


def test_what_is_read_is_one_object_while_it_is_held_and_follows_the_family(cut: Cut) -> None:
    family, net, _, x = cut
    before = alive()
    one = attention(net).weight
    old = one.detach().clone()
    assert attention(net).weight is one
    assert alive() == before + 1
    with torch.no_grad():
        for parameter in family.parameters():
            parameter.data.mul_(2.0)  # leaves no trace in its version
    assert attention(net).weight is one
    assert torch.equal(one, 2.0 * old)
    with torch.no_grad():
        for parameter in family.parameters():
            parameter.mul_(2.0)
        net(x)
    assert torch.equal(one, 4.0 * old)
    del one
    assert alive() == before


def test_a_gradient_of_what_was_read_lands_in_the_family(cut: Cut) -> None:
    family, net, alone, _ = cut
    read = attention(net).weight
    read.square().sum().backward()
    wanted = 2 * attention(alone).weight
    slicing = family.draft(family.space.smallest()).slicing()
    found = gradients(family)[QKV]
    assert torch.equal(slicing.cut(QKV, found), wanted)
    assert found.count_nonzero() == wanted.count_nonzero()
    assert torch.equal(read.grad, wanted)  # and is shown


def test_what_is_written_at_rest_reaches_the_family(cut: Cut) -> None:
    family, net, _, x = cut
    config, before, full = family.space.smallest(), alive(), family.model.get_parameter(QKV)
    version = full._version
    assert attention(net).weight.shape == (24, 16)
    assert full._version == version  # reading alone changes nothing
    kept = family.draft(config).slicing().cut(QKV, torch.arange(full.numel()).reshape(full.shape)).reshape(-1)
    others = torch.ones(full.numel(), dtype=torch.bool).index_fill(0, kept, False)
    rest = full.detach().reshape(-1)[others]

    nn.init.constant_(attention(net).weight, 2.0)  # let go of at once
    assert bool((full.reshape(-1)[kept] == 2.0).all())
    held = attention(net).weight
    with torch.no_grad():
        held[0].fill_(3.0)
    net(x)  # it is held still, and the member is used
    assert bool((full.reshape(-1)[kept].reshape(held.shape)[0] == 3.0).all())
    with torch.no_grad():
        held.mul_(2.0)
    assert attention(net).weight is held
    assert torch.equal(family.extract(config).get_parameter(QKV), held)
    with torch.no_grad():
        held.zero_()
    del held
    assert full.reshape(-1)[kept].count_nonzero() == 0
    assert torch.equal(full.reshape(-1)[others], rest)
    assert alive() == before


def test_writing_to_a_weight_that_was_read_before_the_family_changed(cut: Cut) -> None:
    family, net, _, x = cut
    held, full = attention(net).weight, family.model.get_parameter(QKV)
    with torch.no_grad():
        full.add_(1.0)
        wanted = full.clone()
        held.zero_()
    with pytest.warns(NoEffectWarning, match="read the weight again"):
        net(x)
    del held
    assert torch.equal(full, wanted)


def test_reading_while_a_backward_pass_is_due(cut: Cut) -> None:
    family, net, _, x = cut
    held = attention(net).weight
    outputs = net(x)
    assert attention(net).weight is held
    del held
    assert type(attention(net).weight) is nn.Parameter
    twin = copy.deepcopy(net)
    assert torch.equal(twin(x), outputs)
    want = expected(family, family.space.smallest(), x)
    outputs.square().sum().backward()
    close(gradients(family), want)


def test_a_penalty_on_gradients_learns_through_gathered_weights(cut: Cut) -> None:
    family, net, alone, x = cut

    def penalty(of: nn.Module) -> Tensor:
        given = x.clone().requires_grad_()
        (slope,) = torch.autograd.grad(of(given).square().sum(), given, create_graph=True)
        return slope.square().sum()

    with sdpa_kernel(SDPBackend.MATH):  # the only kernel that has second derivatives
        penalty(alone).backward()
        penalty(net).backward()
    slicing = family.draft(family.space.smallest()).slicing()
    found, wanted = gradients(family)[QKV], attention(alone).weight.grad
    torch.testing.assert_close(slicing.cut(QKV, found), wanted)
    assert found.count_nonzero() == wanted.count_nonzero()


def test_a_parameter_that_is_replaced_stays_so(cut: Cut) -> None:
    _, net, alone, x = cut
    mine = nn.Parameter(torch.zeros_like(attention(alone).weight))
    for each in (net, alone):
        attention(each).weight = mine
    assert attention(net).weight is mine
    assert torch.equal(net(x), alone(x))
    assert attention(net).weight is mine


def test_tied_gathered_parameters_are_one(cut: Cut) -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = ViT(depth=1), ViT(depth=1)
            attention(self.second).weight = attention(self.first).weight

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.first(x) + self.second(x)
            return out

    *_, x = cut
    family = Family(Twice().eval(), (x,), [Width(ratios=(0.5, 1.0), multiple=4, kinds=("width", "heads"))])
    net: Any = family.member(family.space.smallest())
    assert isinstance(attention(net.first)._parameters, Parameters)
    assert attention(net.first).weight is attention(net.second).weight
    twin = copy.deepcopy(net)
    assert attention(twin.first).weight is attention(twin.second).weight
    assert torch.equal(twin(x), net(x))
    names = {name for name, _ in net.named_parameters()}
    assert names == {name for name, _ in family.extract(family.space.smallest()).named_parameters()}


TRANSFORMS: dict[str, Callable[[Any, Tensor], Any]] = {
    "grad": lambda net, x: grad(lambda each: net(each).square().sum())(x),
    "vmap": lambda net, x: vmap(lambda each: net(each[None])[0])(x),
    "jacrev": lambda net, x: jacrev(net)(x),
    "parts at rest": lambda net, x: grad(lambda each: net.blocks[0].attn.qkv(each).sum())(x.new_ones(2, 16)),
}


@pytest.mark.filterwarnings("ignore:There is a performance drop")
@pytest.mark.parametrize("transform", TRANSFORMS.values(), ids=list(TRANSFORMS))
def test_transforms_of_torch_func(transform: Callable[[Any, Tensor], Any], cut: Cut) -> None:
    family, net, _, x = cut
    for _ in range(2):
        torch.testing.assert_close(transform(net, x), transform(family.extract(family.space.smallest()), x))
        with torch.no_grad():
            for parameter in family.parameters():
                parameter.mul_(1.1)
    want = expected(family, family.space.smallest(), x)
    net(x).square().sum().backward()
    close(gradients(family), want)


def test_per_sample_gradients(cut: Cut) -> None:
    _, net, alone, x = cut

    def slopes(net: nn.Module) -> Any:
        own = {name: parameter.detach() for name, parameter in net.named_parameters()}

        def loss(values: Any, one: Tensor) -> Tensor:
            out: Tensor = functional_call(net, values, (one[None],))
            return out.square().sum()

        with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
            return vmap(grad(loss), in_dims=(None, 0))(own, x)

    found, wanted = slopes(net), slopes(alone)
    assert found.keys() == wanted.keys()
    for name, slope in wanted.items():
        torch.testing.assert_close(found[name], slope)


@pytest.mark.parametrize("reentrant", [False, True])
def test_forwards_that_are_run_again_in_the_backward_pass(reentrant: bool, cut: Cut) -> None:
    """They read the parameters when the forward has ended."""
    family, net, _, x = cut
    want = expected(family, family.space.smallest(), x)
    block: Any
    for block in net.get_submodule("blocks").children():
        plain = block.forward
        block.forward = lambda *args, plain=plain: checkpoint(plain, *args, use_reentrant=reentrant)
    net(x.requires_grad_()).square().sum().backward()
    close(gradients(family), want)


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")  # which the compiler hides by itself
def test_a_member_compiled_by_torch(cut: Cut) -> None:
    family, net, alone, x = cut
    torch.compiler.reset()
    compiled: Any = torch.compile(net, backend="eager")
    for _ in range(10):  # more than it would compile again
        with torch.no_grad():
            torch.testing.assert_close(compiled(x), alone(x))
            for parameter in family.parameters():
                parameter.data.mul_(0.9)
        alone = family.extract(family.space.smallest())
    want = expected(family, family.space.smallest(), x)
    compiled(x).square().sum().backward()
    close(gradients(family), want)
    with torch.compiler.set_stance("fail_on_recompile"):
        for _ in range(3):
            compiled(x).square().sum().backward()
    close(gradients(family), {name: 4 * value for name, value in want.items()})


@pytest.mark.parametrize("name", ["convnet", "fused"])
def test_a_member_exported_by_torch(name: str) -> None:
    family, x = family_of(name)
    family.model.eval()
    config = family.space.smallest()
    net, alone = family.member(config), family.extract(config)
    program = torch.export.export(net, (x,))
    torch.testing.assert_close(program.module()(x), alone(x))
    with torch.no_grad():
        for parameter in family.parameters():
            parameter.zero_()
    state = alone.state_dict()
    assert program.state_dict.keys() == state.keys()
    assert all(torch.equal(value, state[key]) for key, value in program.state_dict.items() if "qkv" in key)
    assert torch.equal(net(x), family.extract(config)(x))


def test_reading_while_forwards_run_in_other_threads(cut: Cut) -> None:
    _, net, alone, x = cut
    wanted = attention(alone).weight
    out = alone(x)
    wrong: list[Any] = []
    stop = threading.Event()

    def read() -> None:
        while not stop.is_set():
            if not torch.equal(attention(net).get_parameter("weight"), wanted):
                wrong.append("weight")

    def run() -> None:
        for _ in range(60):
            with torch.no_grad():
                if not torch.equal(net(x), out):
                    wrong.append("output")

    reader, runners = threading.Thread(target=read), [threading.Thread(target=run) for _ in range(2)]
    for thread in (reader, *runners):
        thread.start()
    for thread in runners:
        thread.join()
    stop.set()
    reader.join()
    assert not wrong, wrong[:3]


def test_an_interrupted_forward_leaves_no_old_values_behind(cut: Cut) -> None:
    family, net, _, x = cut

    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt  # which torch's hooks after a forward do not hear of

    handle = net.get_submodule("blocks.1").register_forward_pre_hook(interrupt)
    with pytest.raises(KeyboardInterrupt):
        net(x)
    handle.remove()
    with torch.no_grad():
        for parameter in family.parameters():
            parameter.mul_(0.5)
    before, state = alive(), net.state_dict()  # asked for before the member runs again
    wanted = family.extract(family.space.smallest()).state_dict()
    assert all(torch.equal(value, wanted[name]) for name, value in state.items())
    del state
    assert alive() < before, "what the interrupted forward held"
    assert torch.equal(attention(net).weight, wanted[QKV])
