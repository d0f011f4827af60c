"""Elastic ranks against numpy's singular vectors, against plain autograd, and through training, storage and export."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pliant.checks import NoEffectWarning, WrongShapeError
from pliant.family import Family, at
from pliant.family.counts import macs_shares
from pliant.measure import Bytes, Macs, Params
from pliant.techniques.elastic.depth import Depth
from pliant.techniques.elastic.low_rank import LowRank, orthonormal
from pliant.techniques.elastic.width import Width
from pliant.techniques.train.sandwich import Sandwich
from pliant.training import TrainingStep, train
from tests.family.nets import FusedAttention, Gpt, HardCoded, TorchAttention, Twice, ViT, tokens, vectors
from tests.techniques.train.turns import Deep, Largest, digit_batches, digits

X, Y = vectors(3, 4, 6), torch.tensor([0, 4, 2])
EXACT = LowRank(multiple=1)


def vit(*techniques: Any, rank: LowRank = EXACT) -> Any:
    torch.manual_seed(0)
    return Family(ViT(), (X,), [rank, *techniques])


def of_ratio(family: Family, ratio: float) -> Any:
    names = [c.name for c in family.space.choices if c.name.endswith("rank") and ratio in c.options]
    return family.space.complete(dict.fromkeys(names, ratio))


def product(layer: Any) -> Tensor:
    """The weight that a layer stands for, whether it is whole or two factors."""
    return layer.weight if isinstance(layer, nn.Linear) else layer.up.weight @ layer.down.weight


def truncated(weight: Tensor, rank: int) -> Tensor:
    u, s, v = np.linalg.svd(weight.detach().double().numpy(), full_matrices=False)
    return torch.from_numpy((u[:, :rank] * s[:rank]) @ v[:rank])


def projected(weight: Tensor, basis: Tensor) -> Tensor:
    """A weight behind the projection on the columns of ``basis``, by numpy's pseudo-inverse."""
    columns = basis.detach().double().numpy()
    return weight.detach().double() @ torch.from_numpy(columns @ np.linalg.pinv(columns))


# ---- members ---------------------------------------------------------------------------------------------------------
def test_the_largest_member_is_the_network_that_was_given() -> None:
    torch.manual_seed(0)
    net = ViT()
    before = net(X)
    family = Family(net, (X,), [EXACT])
    assert family.member(family.space.largest()) is family.model
    assert torch.equal(family.member(family.space.largest())(X), before)
    options = {choice.name: choice.options for choice in family.space.choices}
    assert options["blocks.0.fc1.rank"] == (0.125, 0.25, 0.5, 1.0)
    assert options["blocks.0.attn.proj.rank"] == (0.125, 0.25, 1.0)  # half the rank of a square saves nothing
    assert options["head.rank"] == (0.125, 0.5, 1.0)  # a quarter of 5 is the rank of an eighth, 1


@pytest.mark.parametrize("ratio", [0.125, 0.25, 0.5])
def test_members_are_numpys_truncated_singular_values(ratio: float) -> None:
    """In double precision: in single, nearly equal singular values turn their vectors."""
    torch.manual_seed(0)
    x = X.double()
    family: Any = Family(ViT().double(), (x,), [EXACT])
    config = of_ratio(family, ratio)
    member, alone = family.member(config).eval(), family.extract(config)
    wanted = ViT().double()
    wanted.load_state_dict(family.model.state_dict())
    for name, layer in wanted.named_modules():
        if isinstance(layer, nn.Linear) and config.get(f"{name}.rank") == ratio:
            full = min(layer.weight.shape)
            rank = max(1, round(ratio * full))
            low = truncated(layer.weight, rank)
            assert torch.allclose(product(alone.get_submodule(name)), low, atol=1e-12), name
            assert alone.get_parameter(f"{name}.down.weight").shape == (rank, layer.in_features)
            with torch.no_grad():
                layer.weight.copy_(low)
    assert torch.allclose(member(x), wanted(x), atol=1e-10)
    assert torch.allclose(alone(x), member(x), atol=1e-12)


def test_ranks_are_those_of_what_stays_after_slicing() -> None:
    family, rng = vit(Width(multiple=4), Depth()), random.Random(0)
    family.prepare()
    with torch.no_grad():
        for value in family.extra.values():
            value.add_(0.2 * torch.randn_like(value))  # no longer singular vectors, nor orthonormal
    for config in (family.space.smallest(), family.space.sample(rng), family.space.sample(rng)):
        sizes = {name: option for name, option in config.items() if not name.endswith(".rank")}
        whole = {name: 1.0 for name in config if name.endswith(".rank")}
        wanted: Any = family.extract({**whole, **sizes})
        alone, slicing = family.extract(config), family.draft(config).slicing()
        for name, layer in list(wanted.named_modules()):
            ratio = config.get(f"{name}.rank", 1.0)
            if not isinstance(layer, nn.Linear) or not isinstance(alone.get_submodule(name), nn.Sequential):
                continue
            rank = max(1, round(ratio * min(layer.weight.shape)))
            pick = slicing.picks(f"{name}.weight")[1]
            basis = family.extra[f"{name}.basis"][slice(None) if pick is None else pick, :rank]
            low = projected(layer.weight, basis)
            assert torch.allclose(product(alone.get_submodule(name)).double(), low, atol=1e-5), name
            assert np.linalg.matrix_rank(low.numpy(), tol=1e-8) == rank
            with torch.no_grad():
                layer.weight.copy_(low)
        assert torch.allclose(alone(X), wanted(X), atol=1e-5)
        assert torch.allclose(family.member(config).eval()(X), alone(X), atol=1e-6)


def test_members_cost_what_their_factors_do() -> None:
    family = vit(rank=LowRank(ratios=(0.25,), multiple=1, per="network"))
    low, full = family.space.smallest(), family.space.largest()
    saved = sum(
        p.numel() - round(0.25 * min(p.shape)) * sum(p.shape)
        for name, p in family.model.named_parameters()
        if p.dim() == 2 and name != "pos"
    )
    for measured in (family.ready(low), family.extract(low)):
        assert Params().measure(measured).value == Params().measure(family.model).value - saved
        assert Macs((X,)).measure(measured).value < 0.6 * Macs((X,)).measure(family.model).value
        assert Bytes().measure(measured).value < Bytes().measure(family.model).value
    total = Params().measure(family.model).value
    assert macs_shares(family)(low) == (total - saved) / total  # parameters stand for operations that are not counted
    assert macs_shares(family)(full) == 1.0


OTHERS = [(Gpt, tokens(), 8), (TorchAttention, vectors(3, 4, 16), 2), (Twice, vectors(3, 8), 3),
          (HardCoded, vectors(3, 4, 16), 3)]  # fmt: skip


@pytest.mark.parametrize(("net", "x", "count"), OTHERS)
def test_other_networks(net: Any, x: Tensor, count: int) -> None:
    """A head that is tied to an embedding stays whole, and so does what torch's attention reads without calling it."""
    torch.manual_seed(0)
    family = Family(net(), (x,), [Width(multiple=8), EXACT])
    assert sum(choice.name.endswith(".rank") for choice in family.space.choices) == count
    config = family.space.smallest()
    assert torch.allclose(family.extract(config)(x), family.member(config).eval()(x), atol=1e-6)


def test_as_a_graph_of_operations_a_lower_rank_is_the_same_function() -> None:
    family = vit()
    config = of_ratio(family, 0.25)
    wanted = family.extract(config)(X)
    family.form = "graph"
    family.forget()
    assert torch.allclose(family.member(config).eval()(X), wanted, atol=1e-5)
    assert torch.allclose(family.extract(config)(X), wanted, atol=1e-5)


@pytest.mark.slow
def test_one_choice_for_a_role_or_for_the_network() -> None:
    family = vit(rank=LowRank(multiple=1, per="role"))
    assert {c.name for c in family.space.choices} == {
        "embed.rank", "blocks.*.attn.qkv.rank", "blocks.*.attn.proj.rank", "blocks.*.fc1.rank", "blocks.*.fc2.rank",
        "head.rank",
    }  # fmt: skip
    family = vit(rank=LowRank(multiple=4, per="network"))
    assert {c.name: c.options for c in family.space.choices} == {"rank": (0.125, 0.5, 1.0)}  # 4 of 16 at both
    net: Any = family.extract({"rank": 0.5})
    assert net.blocks[0].fc1.down.weight.shape == (8, 16)
    assert isinstance(net.blocks[0].attn.proj, nn.Linear)  # 8 of 16 would save nothing
    assert isinstance(net.head, nn.Linear)
    family = vit(Width(multiple=4), rank=LowRank(multiple=4, per="network"))
    cut: Any = family.extract({**family.space.smallest(), "rank": 0.5})
    assert isinstance(cut.blocks[0].attn.proj, nn.Linear)  # also where it is cut and two factors would do


# ---- gradients -------------------------------------------------------------------------------------------------------
def close(left: Tensor | None, right: Tensor | None) -> bool:
    """Whether two gradients are there and the same."""
    return left is not None and right is not None and torch.allclose(left, right, atol=1e-9)


def test_gradients_are_those_of_the_projection() -> None:
    """Against autograd through ``V (V'V)^-1 V'``, in double precision."""
    torch.manual_seed(0)
    family = Family(ViT().double(), (X.double(),), [EXACT, Width(multiple=4)])
    with torch.no_grad():
        for value in family.extra.values():
            value.add_(0.2 * torch.randn_like(value))
    config = family.space.complete({**of_ratio(family, 0.25), "blocks.0.width": 8})
    TrainingStep(family, (X.double(), Y), F.cross_entropy).learn(config)
    twins = {name: nn.Parameter(value.detach().clone()) for name, value in family.extra.items()}
    given = {name: nn.Parameter(value.detach().clone()) for name, value in family.model.named_parameters()}
    sliced = {name: option for name, option in config.items() if not name.endswith(".rank")}
    slicing = family.draft(family.space.complete(sliced)).slicing()
    net = family.extract(family.space.complete(sliced))
    weights = {}
    for name, value in given.items():
        weights[name] = slicing.cut(name, value)
        stem = name.removesuffix(".weight")
        if config.get(f"{stem}.rank") == 0.25:
            rank = max(1, round(0.25 * min(weights[name].shape)))
            v = twins[f"{stem}.basis"][: weights[name].shape[1], :rank]
            weights[name] = weights[name] @ v @ torch.linalg.inv(v.t() @ v) @ v.t()
    F.cross_entropy(torch.func.functional_call(net, weights, (X.double(),)), Y).backward()
    for name, parameter in family.model.named_parameters():
        assert close(parameter.grad, given[name].grad), name
    for name, value in family.extra.items():
        if config[f"{name.removesuffix('.basis')}.rank"] == 0.25:
            assert value.grad is not None
            assert close(value.grad, twins[name].grad), name


def test_a_step_changes_nothing_outside_the_member() -> None:
    family = vit(Width(multiple=4))
    config = family.space.complete({**of_ratio(family, 0.25), "blocks.1.width": 8})
    before = {name: value.detach().clone() for name, value in family.extra.items()}
    weights = {name: value.detach().clone() for name, value in family.model.named_parameters()}
    optimizer = torch.optim.SGD(family.parameters(), lr=0.1)
    TrainingStep(family, (X, Y), F.cross_entropy).learn(config)
    optimizer.step()
    slicing = family.draft(config).slicing()
    for name, value in family.model.named_parameters():
        changed = value != weights[name]
        assert bool(changed.any()), name
        slicing.cut(name, changed).zero_()
        assert not bool(changed.any()), name
    for name, value in family.extra.items():
        if config[f"{name.removesuffix('.basis')}.rank"] == 1.0:
            continue
        changed = value != before[name]
        weight = family.model.get_parameter(f"{name.removesuffix('.basis')}.weight")
        rank = max(1, round(0.25 * min(slicing.cut(f"{name.removesuffix('.basis')}.weight", weight).shape)))
        assert not bool(changed[:, rank:].any()), name
        assert bool(changed[:, :rank].any()), name
    assert not bool((family.extra["blocks.1.fc2.basis"] != before["blocks.1.fc2.basis"])[8:].any())


@pytest.mark.parametrize(("columns", "without"), [((0, 1, 0), [2]), ((5, 0, 1), [0, 1, 2])])
def test_dependent_columns_have_no_gradient(columns: tuple[int, ...], without: list[int]) -> None:
    """A cut may leave columns that depend on each other, or are zero: an inverse would give infinite gradients."""
    basis = nn.Parameter(torch.eye(6)[:5, list(columns)])
    axes = orthonormal(basis)
    assert torch.allclose(axes.t() @ axes, torch.eye(3), atol=1e-6)
    assert torch.allclose(axes @ axes.t() @ basis, basis, atol=1e-6)
    (vectors(4, 5) @ axes @ axes.t()).pow(3).sum().backward()
    assert basis.grad is not None
    sizes = basis.grad.abs().amax(0)
    assert [at for at in range(3) if float(sizes[at]) < 1e-4] == without


# ---- training, storage, export ---------------------------------------------------------------------------------------
@pytest.mark.slow
def test_it_trains_is_stored_and_exported(tmp_path: Path) -> None:
    import pliant

    family = vit(Width(multiple=4), Depth(per_block=True))
    first = {name: value.detach().clone() for name, value in family.extra.items()}
    train(family, [(X, Y)] * 4, F.cross_entropy, steps=4, recipe=Sandwich(between=1), folder=tmp_path / "run")
    assert not any(torch.equal(value, first[name]) for name, value in family.extra.items())
    config = family.space.smallest()
    wanted = family.extract(config)(X)
    family.save(tmp_path / "family")
    loaded = Family.load(tmp_path / "family", ViT())
    assert torch.equal(loaded.extract(config)(X), wanted)
    made = pliant.export(family.extract(config), tmp_path / "net.pt2", (X,))
    assert torch.allclose(torch.export.load(made.path).module()(X), wanted, atol=1e-5)
    assert not any(module.training for module in family.extract(config).modules())
    assert not [type(m) for m in family.extract(config).modules() if type(m).__module__.startswith("pliant.techniques")]


def test_a_half_precision_family_and_a_part_of_the_network() -> None:
    torch.manual_seed(0)
    family = Family(ViT().bfloat16(), (X.bfloat16(),), [at("blocks.0*", EXACT)])
    assert {choice.name.split(".")[1] for choice in family.space.choices} == {"0"}
    assert family.extra["blocks.0.fc1.basis"].dtype == torch.bfloat16
    config = family.space.smallest()
    TrainingStep(family, (X.bfloat16(), Y), F.cross_entropy).learn(config)
    assert family.extra["blocks.0.fc1.basis"].grad is not None
    assert family.extract(config)(X.bfloat16()).dtype == torch.bfloat16


def test_modules_and_weights_that_are_shared() -> None:
    class Shared(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = self.second = nn.Linear(16, 16)
            self.third, self.fourth = nn.Linear(16, 16), nn.Linear(16, 16)
            self.fourth.weight = self.third.weight
            self.attn = FusedAttention(16, 2)

        def forward(self, x: Tensor) -> Tensor:
            x = self.fourth(torch.tanh(self.third(torch.relu(self.second(torch.relu(self.first(x)))))))
            return self.attn(x).mean(1)

    torch.manual_seed(0)
    x = vectors(2, 3, 16)
    family = Family(Shared(), (x,), [EXACT])
    net: Any = family.extract(family.space.smallest())
    assert net.first is net.second
    assert isinstance(net.first, nn.Sequential)
    assert torch.equal(product(net.third), product(net.fourth))
    assert not torch.equal(net.third.up.bias, net.fourth.up.bias)


def test_wrong_fields_and_networks_without_linear_layers() -> None:
    for fields in ({"ratios": ()}, {"ratios": (0.5, 1.0)}, {"ratios": (0.0,)}, {"multiple": 0}, {"per": "block"}):
        with pytest.raises(WrongShapeError, match="LowRank"):
            LowRank(**fields)
    with pytest.warns(NoEffectWarning, match="nothing to bend"):
        Family(nn.Sequential(nn.Conv1d(1, 2, 3)), (vectors(1, 1, 5),), [LowRank()])


@pytest.mark.slow
def test_on_digits_low_ranks_learn_with_the_full_network() -> None:
    """An eighth of the ranks: trained with the family it errs far less than cut from a network trained as a whole."""
    (_, (x, y)), low = digits(), LowRank(ratios=(0.125,), multiple=1, per="network")

    def errors(recipe: Any) -> list[float]:
        torch.manual_seed(0)
        family = Family(Deep(), (x[:4],), [at("blocks*", low)])
        optimizer = torch.optim.AdamW(family.parameters(), lr=5e-3, fused=True)
        train(family, digit_batches, F.cross_entropy, steps=100, recipe=recipe, optimizer=optimizer)
        if isinstance(recipe, Largest):
            low.prepare(family)  # the best approximation of the weights that were trained
        ends = family.space.largest(), family.space.smallest()
        return [float((family.extract(config)(x).argmax(1) != y).float().mean()) for config in ends]

    (whole, cut), (shared, learnt) = errors(Largest()), errors(Sandwich(between=0))
    assert learnt < 0.5 * cut, (whole, cut, shared, learnt)
    assert shared < whole + 0.03, (whole, cut, shared, learnt)
