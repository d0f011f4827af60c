"""Memory plans: worked out by hand, run inside one buffer, and compared with the plain forward pass."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, given, settings
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from pliant.checks import VerificationError
from pliant.graph.schedule import MemoryPlan, one_sample, plan_memory, record, simulate
from pliant.graph.schedule.steps import find_steps
from pliant.tasks.digits_vit import DigitsViT
from tests.family.nets import (
    Branches,
    ConvNet,
    Gpt,
    HardCoded,
    HardCodedNorm,
    Structured,
    TorchAttention,
    Twice,
    ViT,
    images,
    tokens,
    vectors,
)
from tests.graph.random_networks import Drawn, networks


def same(net: nn.Module, plan: MemoryPlan, *args: Any) -> None:
    """The plan gives what the network gives, in the bytes that it says."""
    with torch.no_grad():
        wanted = [leaf for leaf in pytree.tree_leaves(net.eval()(*args)) if isinstance(leaf, Tensor)]
    found, peak = simulate(plan)
    assert peak == plan.peak
    assert peak >= plan.bound
    for one, other in zip(pytree.tree_leaves(found), wanted, strict=True):
        scale = max(1.0, float(other.detach().abs().max()))  # float32 keeps seven digits
        assert float((one - other).abs().max()) <= 1e-6 * scale


def made(net: nn.Module, *args: Any, **how: bool) -> MemoryPlan:
    plan = plan_memory(record(net, args), **how)
    same(net, plan, *args)
    return plan


# ---- by hand ---------------------------------------------------------------------------------------------------------
class Residual(nn.Module):
    """``(1, 16, 8)``: a feed-forward pair on a residual path."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.up, self.down = nn.LayerNorm(8), nn.Linear(8, 32), nn.Linear(32, 8)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.down(F.gelu(self.up(self.norm(x))))


def test_a_feed_forward_pair_needs_its_tokens_and_one_row() -> None:
    x = vectors(1, 16, 8)
    plan = made(Residual(), x)
    row = 4 * 32 * 2  # a hidden row before and after GELU: what is inside a part is not overwritten
    assert plan.peak == 4 * 16 * 8 + row
    assert [operation.name for operation in plan.steps[0].operations] == [
        "layer_norm",
        "linear",
        "gelu",
        "linear",
        "add",
    ]
    assert made(Residual(), x, overwrite=False).peak == 2 * 4 * 16 * 8 + row
    # each by itself: the tokens, and GELU's input and output of all rows
    assert made(Residual(), x, fuse=False, overwrite=False).peak == 4 * 16 * 8 + 2 * 4 * 16 * 32
    # GELU takes the place of its input, row by row
    assert made(Residual(), x, fuse=False).peak == 4 * 16 * 8 + 4 * 16 * 32 + 4 * 32


@pytest.mark.parametrize(("inner", "outer"), [(32, 8), (8, 32)])
def test_tokens_overwrite_tokens_whether_they_shrink_or_grow(inner: int, outer: int) -> None:
    """Growing ones go backward: forward, the first would be written over the second."""
    net = nn.Sequential(nn.Linear(inner, outer), nn.Flatten(0, 1), nn.Linear(outer, inner))
    x = vectors(1, 16, inner)
    plan = made(net, x, fuse=False)
    assert plan.peak == 4 * 16 * 32 + 4 * 32  # the larger of both, and a row on its way
    assert len({place.offset for place in plan.places.values()}) == 1
    assert made(net, x, fuse=False, overwrite=False).peak == 4 * 16 * (8 + 32)


class Patches(nn.Module):
    """``(1, channels, 16, 16) -> (1, 16, 24)``: patches of 4x4 with positions."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv, self.places = nn.Conv2d(channels, 24, 4, stride=4), nn.Parameter(torch.randn(1, 16, 24))

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x).flatten(2).transpose(1, 2) + self.places


def test_a_patch_embedding_goes_row_by_row() -> None:
    """Rows of patches take the place of the rows of an image whose order allows it: one channel, or channels last."""
    x, row, result = vectors(1, 3, 16, 16), 4 * 4 * 24, 4 * 16 * 24
    image = 4 * 3 * 16 * 16
    for channels, rows in ((3, x.contiguous(memory_format=torch.channels_last)), (1, x[:, :1].clone())):
        plan = made(Patches(channels), rows)
        assert [step.parts for step in plan.steps] == [4, 16]
        assert plan.peak == max(image * channels // 3, result) + row  # a row of patches on its way
    assert made(Patches(3), x).peak == image + result  # rows of three channels lie apart
    assert made(Patches(3), x, fuse=False, overwrite=False).peak == max(image + result, 2 * result)


def test_positions_are_added_to_a_row_before_the_next_one_begins() -> None:
    tape = record(Patches(1), (vectors(1, 1, 16, 16),))
    (step,) = find_steps(tape)
    assert step.parts == 4
    assert [operation.name for operation in step.operations] == ["conv2d", "flatten", "transpose", "add"]
    assert len(find_steps(tape, fuse=False)) == 2


def test_the_parts_of_a_patch_embedding_are_the_whole_to_1e_6() -> None:
    x, net = vectors(1, 3, 16, 16), nn.Conv2d(3, 24, 4, stride=4)
    plan = plan_memory(record(net, (x,)))
    assert plan.steps[0].parts == 4
    found, _ = simulate(plan)
    net.requires_grad_(False)
    rows = [F.conv2d(x[:, :, top : top + 4], net.weight, net.bias, stride=4) for top in range(0, 16, 4)]
    assert float((found - net(x)).abs().max()) <= 1e-6
    assert float((found - torch.cat(rows, 2)).abs().max()) <= 1e-6


def test_attention_takes_the_place_of_its_residual() -> None:
    net, x = DigitsViT(dim=32, depth=1, heads=2, head_dim=16, mlp_dim=64), vectors(1, 1, 8, 8)
    plan = made(net, x)
    stream = 4 * 16 * 32
    fused = [operation.name for operation in plan.steps[2].operations]
    assert fused == ["scaled_dot_product_attention", "transpose", "reshape", "linear", "add"]
    assert plan.steps[2].parts == 16
    # tokens, then queries, keys and values; a row of attention's result and one of the projection's (the third, of the
    # sum, takes the first one's place)
    assert plan.peak == stream + 3 * stream + 2 * 4 * 32
    unplanned = made(net, x, fuse=False, overwrite=False)
    assert unplanned.peak == stream + 3 * stream + stream  # and the attention's result


def test_written_out_attention_is_never_whole() -> None:
    class Attention(nn.Module):
        def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            return ((q @ k.transpose(-2, -1)) * 0.5).softmax(-1) @ v

    given = [vectors(1, 2, 16, 8, seed=seed) for seed in range(3)]
    plan = made(Attention(), *given)
    tensor, row = 4 * 2 * 16 * 8, 4 * 2 * 16
    assert plan.steps[0].parts == 16
    assert plan.peak <= 4 * tensor + 2 * row  # not the 4 * 2 * 16 * 16 bytes of scores
    assert made(Attention(), *given, fuse=False, overwrite=False).peak == tensor + 2 * 4 * 2 * 16 * 16


# ---- any network -----------------------------------------------------------------------------------------------------
class InPlace(nn.Module):
    """``(1, 4, 6, 6)``: operations that write into what they are given, parts of a tensor that is made empty."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.zeros(1, 8, 6, 6)
        y[:, :4] = self.norm(self.conv(x)).relu_()
        y[:, 4:] = x
        left, right = y.add_(1.0).chunk(2, 1)
        return F.max_pool2d(left * right.sigmoid_(), 2).mean((2, 3))


class Causal(nn.Module):
    """``(1, 2, 6, 4)``: a query may not look at every key, and parts of it alone would look elsewhere."""

    def forward(self, x: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(x, x, x, is_causal=True) + x


NETS = [(DigitsViT, vectors(1, 1, 8, 8)), (ViT, vectors(1, 4, 6)), (Gpt, tokens(1)), (ConvNet, images(1)),
        (TorchAttention, vectors(1, 4, 16)), (Twice, vectors(1, 8)), (HardCoded, vectors(1, 4, 16)),
        (Branches, vectors(1, 8)), (HardCodedNorm, vectors(1, 3, 4, 4)), (Structured, vectors(1, 8)),
        (InPlace, vectors(1, 4, 6, 6)), (Causal, vectors(1, 2, 6, 4)), (ViT, vectors(3, 4, 6))]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize(("net", "x"), NETS)
def test_every_plan_gives_the_networks_result_in_the_bytes_that_it_says(net: Any, x: Tensor) -> None:
    torch.manual_seed(0)
    given = net().eval()
    peaks = [
        made(given, x, fuse=fuse, overwrite=overwrite).peak
        for fuse, overwrite in ((True, True), (False, True), (False, False))
    ]
    assert peaks == sorted(peaks)


@pytest.mark.slow
@settings(max_examples=10, suppress_health_check=list(HealthCheck))
@given(networks())
def test_plans_of_random_networks(drawn: Drawn) -> None:
    (x,), _ = one_sample((drawn.x,))
    peaks = [made(drawn.model, x, fuse=fuse, overwrite=over).peak for fuse, over in ((True, True), (False, False))]
    assert peaks == sorted(peaks)


@pytest.mark.slow
def test_an_exported_program_has_the_same_plan() -> None:
    class Held(nn.Module):
        def __init__(self, program: Any) -> None:
            super().__init__()
            self._held = [program]

        def forward(self, x: Tensor) -> Tensor:
            return self._held[0](x)

    net, x = DigitsViT(dim=16, depth=2, heads=2, head_dim=8, mlp_dim=32).eval(), vectors(1, 1, 8, 8)
    program = torch.export.export(net, (x,)).module()
    assert made(Held(program), x).peak == made(net, x).peak


def test_what_hangs_on_weights_alone_or_is_not_used_takes_no_room() -> None:
    class Folded(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Parameter(torch.randn(8, 64)), nn.Parameter(torch.randn(64, 8))

        def forward(self, x: Tensor) -> Tensor:
            _ = x.repeat(1, 100)
            return x @ (self.a @ self.b)

    plan = made(Folded(), vectors(1, 8))
    assert plan.peak == 2 * 32
    assert plan.tape.weights == 4 * 64  # of the product
    assert [operation.name for operation in plan.tape.operations] == ["matmul"]


def test_noting_a_pass_changes_nothing() -> None:
    net, x = HardCodedNorm().train(), vectors(1, 3, 4, 4)
    before, random = {n: t.clone() for n, t in net.state_dict().items()}, torch.get_rng_state()
    kept = x.clone()
    record(net, (x,))
    assert net.training
    assert net.drop.training
    assert all(torch.equal(t, before[n]) for n, t in net.state_dict().items())
    assert torch.equal(torch.get_rng_state(), random)
    assert torch.equal(x, kept)


def test_one_sample_of_an_example() -> None:
    args, kwargs = one_sample((vectors(3, 4), vectors(4, 3)), {"mask": vectors(3, 2), "scale": 2.0})
    assert [t.shape[0] for t in args] == [1, 4]
    assert kwargs["mask"].shape == (1, 2)
    assert kwargs["scale"] == 2.0


# ---- that wrong plans are found out ----------------------------------------------------------------------------------
def test_a_plan_that_puts_two_tensors_in_one_place_is_refused() -> None:
    plan = plan_memory(record(DigitsViT(dim=16, depth=1), (vectors(1, 1, 8, 8),)))
    low = dataclasses.replace(plan, places={s: dataclasses.replace(p, offset=0) for s, p in plan.places.items()})
    with pytest.raises(VerificationError, match="in use"):
        simulate(low)
    with pytest.raises(VerificationError, match="outside the buffer"):
        simulate(dataclasses.replace(plan, peak=plan.peak - 16))


def test_freeing_too_early_and_going_the_wrong_way_shows_in_the_result() -> None:
    net, x = Twice(), vectors(1, 8)
    plan = plan_memory(record(net, (x,)), fuse=False, overwrite=False)
    storage = plan.steps[0].storages[0]
    place = plan.places[storage]
    shorter = dataclasses.replace(place, last=place.last - 1)
    early = dataclasses.replace(plan, places={**plan.places, storage: shorter})
    assert bool(simulate(early)[0].isnan().any())
    grow = nn.Sequential(nn.Linear(8, 32), nn.Flatten(0, 1)).requires_grad_(False)
    plan = plan_memory(record(grow, (vectors(1, 16, 8),)))
    sizes = list(plan.tape.sizes)
    sizes[plan.overwrites[0]] = sizes[plan.steps[0].storages[0]]  # as if the input were as large: parts go forward
    tape = dataclasses.replace(plan.tape, sizes=tuple(sizes))
    found, _ = simulate(dataclasses.replace(plan, tape=tape))
    assert not torch.allclose(found, grow(vectors(1, 16, 8)), atol=1e-3)
