"""One choice of bits per layer: rounding against torch's own, adapters that cannot touch each other, extraction."""

from __future__ import annotations

import random
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pliant.checks import NoEffectWarning, WrongShapeError
from pliant.family import Family, at
from pliant.graph.analysis import analyze
from pliant.techniques.elastic import _gptq, llm_qfa
from pliant.techniques.elastic._gptq import corrected
from pliant.techniques.elastic.depth import Depth
from pliant.techniques.elastic.llm_qfa import LlmQfa, rounded
from pliant.techniques.elastic.width import Width
from pliant.techniques.train.balanced_bits import BalancedBits
from pliant.training import Progress, TrainingStep, train
from tests.family.nets import Gpt, HardCoded, TorchAttention, Twice, ViT, tokens, vectors

X, Y = vectors(3, 4, 6), torch.tensor([0, 4, 2])
SMALL = LlmQfa(group=8, rank=2)


def vit(*techniques: Any) -> Any:
    torch.manual_seed(0)
    return Family(ViT(), (X,), [SMALL, *techniques])


def stirred(family: Family, scale: float = 0.05) -> Family:
    """Return the family with adapters that add something, each another thing."""
    draw = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for value in LlmQfa.adapters(family):
            value.copy_(scale * torch.randn(value.shape, generator=draw))
    return family


def of_bits(family: Family, bits: int) -> Any:
    return family.space.complete({c.name: bits for c in family.space.choices if c.name.endswith(".bits")})


# ---- rounding --------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("bits", [1, 2, 3, 4, 8])
def test_rounding_is_that_of_torch(bits: int) -> None:
    weight = vectors(6, 20)
    found = rounded(weight, bits, 8)
    steps = 2**bits - 1
    for row in range(6):
        for start in (0, 8, 16):
            part = weight[row, start : start + 8]
            low, high = min(0.0, float(part.min())), max(0.0, float(part.max()))
            scale = (high - low) / steps
            zero = round(-low / scale)
            wanted = torch.fake_quantize_per_tensor_affine(part, scale, zero, 0, steps)
            assert torch.allclose(found[row, start : start + 8], wanted, atol=1e-6)


def test_rounding_of_zeros_and_of_one_value() -> None:
    assert torch.equal(rounded(torch.zeros(2, 5), 2, 3), torch.zeros(2, 5))
    assert torch.allclose(rounded(torch.full((2, 5), -0.7), 3, 3), torch.full((2, 5), -0.7))


# ---- correcting ------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(("bits", "columns"), [(2, 128), (3, 7), (4, 1)])
def test_columns_to_come_are_the_least_squares_answer_to_those_that_are_rounded(
    bits: int, columns: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever is rounded, the other columns are those that bring the outputs nearest to what they were."""
    monkeypatch.setattr(_gptq, "_COLUMNS", columns)
    weight, inputs = vectors(5, 20).double(), vectors(40, 20, seed=1).double() @ vectors(20, 20, seed=2).double()
    gram = inputs.t() @ inputs
    damped = gram + 0.01 * gram.diagonal().mean() * torch.eye(20)
    left, found = weight.clone(), torch.zeros(5, 20).double()
    for column in range(20):
        if column % 8 == 0:
            low, high = (
                left[:, column : column + 8].amin(1).clamp(max=0),
                left[:, column : column + 8].amax(1).clamp(min=0),
            )
            scale = (high - low) / (2**bits - 1)
            zero = (-low / scale).round()
        codes = ((left[:, column] / scale).round() + zero).clamp(0, 2**bits - 1)
        found[:, column] = (codes - zero) * scale
        done, rest = slice(0, column + 1), slice(column + 1, 20)
        lost = (weight[:, done] - found[:, done]) @ damped[done, rest]
        left[:, rest] = weight[:, rest] + torch.linalg.solve(damped[rest, rest], lost.t()).t()
    assert torch.allclose(corrected(weight, bits, 8, gram), found, atol=1e-8)

    def gap(rows: Tensor) -> float:
        return float(((rows - weight) @ inputs.t()).square().sum())

    assert gap(found) < 0.8 * gap(rounded(weight, bits, 8))


def test_inputs_that_do_not_go_together_leave_nothing_to_correct() -> None:
    weight = vectors(6, 20)
    assert torch.allclose(corrected(weight, 3, 8, torch.eye(20)), rounded(weight, 3, 8), atol=1e-6)
    assert torch.isfinite(corrected(weight, 3, 8, torch.zeros(20, 20))).all()


def test_calibrated_families_have_members_nearer_to_the_network() -> None:
    class Hooked(dict[str, Tensor]):
        def __call__(self, name: str, module: nn.Module, args: Any) -> None:
            rows = args[0].detach().flatten(0, -2).double()
            self[name] = self.get(name, 0.0) + rows.t() @ rows

    family, rows, batches = vit(Width(multiple=4)), Hooked(), [(vectors(16, 4, 6, seed=k), None) for k in range(3)]
    family.prepare()
    hooks = [module.register_forward_pre_hook(partial(rows, f"{name}.weight"))
             for name, module in family.model.named_modules() if isinstance(module, nn.Linear)]  # fmt: skip
    family.model.eval()
    for x, _ in batches:
        family.model(x)
    for hook in hooks:
        hook.remove()
    seen = _gptq.grams(family, batches)
    assert {name for name in rows if torch.allclose(seen[name], rows[name], rtol=1e-4, atol=1e-4)} == rows.keys()
    held, two = vectors(64, 4, 6, seed=9), of_bits(family, 2)
    wanted = family.extract(family.space.largest())(held)
    before = (family.extract(two)(held) - wanted).square().mean()
    SMALL.calibrate(family, batches)
    after = (family.extract(two)(held) - wanted).square().mean()
    assert float(after.detach()) < 0.7 * float(before.detach())
    weight = family.extra["blocks.0.fc1.bits3.weight"]
    given = family.model.blocks[0].fc1.weight.detach()
    assert torch.equal(weight, corrected(given, 3, 8, seen["blocks.0.fc1.weight"]))


def test_packed_projections_are_calibrated() -> None:
    torch.manual_seed(0)
    family, x = Family(TorchAttention(), (vectors(3, 4, 16),), [SMALL]), vectors(5, 4, 16)
    stale = {name: value.clone() for name, value in family.extra.items() if name.endswith("bits2.weight")}
    SMALL.calibrate(family, [(x, None)])
    assert not any(torch.equal(family.extra[name], value) for name, value in stale.items())


# ---- members ---------------------------------------------------------------------------------------------------------
def test_the_largest_member_is_the_network_that_was_given() -> None:
    torch.manual_seed(0)
    net = ViT()
    before = net(X)
    family = Family(net, (X,), [SMALL])
    assert {choice.options for choice in family.space.choices} == {(2, 3, 4, 32)}
    assert family.member(family.space.largest()) is family.model
    stirred(family)
    assert torch.equal(family.member(family.space.largest())(X), before)


def test_members_are_networks_with_rounded_weights_and_merged_adapters() -> None:
    family, twin = stirred(vit(Width(multiple=4), Depth())), ViT()
    plain, rng = Family(twin, (X,), [Width(multiple=4), Depth()]), random.Random(0)
    for config in (of_bits(family, 2), family.space.smallest(), family.space.sample(rng), family.space.sample(rng)):
        twin.load_state_dict(family.model.state_dict())
        with torch.no_grad():
            for name, weight in twin.named_parameters():
                bits = config.get(f"{name.removesuffix('.weight')}.bits", 32)
                if bits == 32:
                    continue
                stem = f"{name.removesuffix('.weight')}.bits{bits}.adapter"
                shift = family.extra[f"{stem}.up"] @ family.extra[f"{stem}.down"]  # (outputs, groups)
                weight.copy_(rounded(weight, bits, 8))  # type: ignore[arg-type]
                for column in range(weight.shape[1]):
                    weight[:, column] += shift[:, column // 8]
        sizes = {name: option for name, option in config.items() if not name.endswith(".bits")}
        wanted = plain.extract(sizes)(X)
        member, alone = family.member(config).eval(), family.extract(config)
        assert torch.allclose(member(X), wanted, atol=1e-5)
        assert torch.allclose(alone(X), member(X), atol=1e-6)
        assert not [name for name, _ in alone.named_parameters() if "parametrizations" in name]


def test_weights_are_quantised_after_units_are_sorted() -> None:
    torch.manual_seed(0)
    family = Family(ViT(), (X,), [SMALL, Width(multiple=4)])
    member = family.member(of_bits(family, 4))
    before, weights = member(X).detach(), family.model.blocks[0].fc1.weight.detach().clone()  # type: ignore[index,union-attr]
    family.prepare()
    sorted_weights = family.model.blocks[0].fc1.weight  # type: ignore[index,union-attr]
    assert not torch.equal(sorted_weights, weights)
    for name, weight in family.model.named_parameters():
        if (kept := family.extra.get(f"{name.removesuffix('.weight')}.bits4.weight")) is not None:
            assert torch.equal(kept, rounded(weight.detach(), 4, 8))
    # Rows moved along with their scales, columns moved to other groups: nearly the same network.
    gap = family.member(of_bits(family, 4))(X).detach() - before
    assert float(gap.abs().max()) < 0.2 * float(before.abs().max())


def test_what_leaves_the_family_is_still_quantised() -> None:
    family = stirred(vit())
    for bits in (2, 3):
        alone = family.extract(of_bits(family, bits))
        for name, weight in alone.named_parameters():
            if f"{name.removesuffix('.weight')}.bits" in family.space._by_name:
                for part in weight.detach().split(8, 1):
                    assert max(len(row.mul(1e4).round().unique()) for row in part) <= 2**bits


OTHERS = [(Gpt, tokens(), 8), (TorchAttention, vectors(3, 4, 16), 4), (Twice, vectors(3, 8), 3),
          (HardCoded, vectors(3, 4, 16), 3)]  # fmt: skip


@pytest.mark.parametrize(("net", "x", "count"), OTHERS)
def test_other_networks(net: Any, x: Tensor, count: int) -> None:
    torch.manual_seed(0)
    family = stirred(Family(net(), (x,), [Width(multiple=8), SMALL]))
    assert sum(choice.name.endswith(".bits") for choice in family.space.choices) == count  # a tied head has none
    for config in (of_bits(family, 2), family.space.smallest()):
        assert torch.allclose(family.extract(config)(x), family.ready(config)(x), atol=1e-6)


class Addmm(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(vectors(20, 6)), nn.Parameter(torch.zeros(6))

    def forward(self, x: Tensor) -> Tensor:
        return torch.addmm(self.bias, x, self.weight)


def test_a_layer_whose_weight_is_the_other_way_round() -> None:
    x = vectors(3, 20)
    net = Addmm()
    family = stirred(Family(net, (x,), [SMALL]))
    shift = family.extra["weight.bits2.adapter.up"] @ family.extra["weight.bits2.adapter.down"]
    wanted = rounded(net.weight.t(), 2, 8) + shift.repeat_interleave(8, 1)[:, :20]
    assert torch.allclose(family.member({"weight.bits": 2})(x), x @ wanted.t(), atol=1e-5)
    rows = vectors(30, 20, seed=4)
    SMALL.calibrate(family, [(rows[:10], None), (rows[10:], None)])
    wanted = corrected(net.weight.detach().t(), 2, 8, rows.double().t() @ rows.double())
    assert torch.allclose(family.extra["weight.bits2.weight"], wanted.t(), atol=1e-6)


def test_layers_without_inputs_stay_rounded_to_the_nearest(monkeypatch: pytest.MonkeyPatch) -> None:
    family = Family(Addmm(), (vectors(3, 20),), [SMALL])
    before = family.extra["weight.bits2.weight"].detach().clone()
    monkeypatch.setattr(llm_qfa, "grams", lambda family, batches: {})
    with pytest.warns(NoEffectWarning, match="1 layers get no inputs.*'weight'"):
        SMALL.calibrate(family, [])
    assert torch.equal(family.extra["weight.bits2.weight"], before)


# ---- training --------------------------------------------------------------------------------------------------------
def test_training_one_number_of_bits_leaves_all_else_bitwise_as_it_was() -> None:
    family = stirred(vit())
    three = of_bits(family, 3)
    before = {name: value.detach().clone() for name, value in family.extra.items()}
    weights = {name: value.detach().clone() for name, value in family.model.state_dict().items()}
    optimizer = torch.optim.AdamW(LlmQfa.adapters(family), lr=0.01, weight_decay=0.1)
    for _ in range(3):
        turn = TrainingStep(family, (X, Y), F.cross_entropy)
        turn.learn(three)
        optimizer.step()
        optimizer.zero_grad()
    for name, value in family.extra.items():
        assert torch.equal(value, before[name]) != (".bits3.adapter" in name), name
    assert all(torch.equal(value, weights[name]) for name, value in family.model.state_dict().items())


def test_an_optimizer_of_all_parameters_leaves_quantised_weights_alone() -> None:
    family = vit()
    frozen = {name: value.clone() for name, value in family.extra.items() if not value.requires_grad}
    given = {name: p.detach().clone() for name, p in family.model.named_parameters()}
    optimizer = torch.optim.AdamW(family.parameters(), lr=0.01, weight_decay=0.1)
    train(family, [(X, Y)] * 4, F.cross_entropy, steps=4, recipe=BalancedBits(period=4), optimizer=optimizer)
    assert frozen
    assert all(torch.equal(family.extra[name], value) for name, value in frozen.items())
    assert not torch.equal(family.model.get_parameter("norm.weight"), given["norm.weight"])  # shared, so it learns


def test_gradients_of_adapters_are_those_of_plain_autograd() -> None:
    family = stirred(vit())
    config = of_bits(family, 4)
    TrainingStep(family, (X, Y), F.cross_entropy).learn(config)
    twins = {name: nn.Parameter(p.detach().clone()) for name, p in family.extra.items() if ".bits4.adapter" in name}
    weights = dict(family.model.named_parameters())
    for choice in family.space.choices:
        stem = choice.name.removesuffix(".bits")
        shift = twins[f"{stem}.bits4.adapter.up"] @ twins[f"{stem}.bits4.adapter.down"]
        given = weights[f"{stem}.weight"].detach()
        weights[f"{stem}.weight"] = rounded(given, 4, 8) + shift.repeat_interleave(8, 1)[:, : given.shape[1]]  # type: ignore[assignment]
    F.cross_entropy(torch.func.functional_call(family.model, weights, (X,)), Y).backward()  # type: ignore[arg-type]
    for name, twin in twins.items():
        found = family.extra[name].grad
        assert found is not None
        assert twin.grad is not None
        assert torch.allclose(found, twin.grad, atol=1e-6), name


@pytest.mark.slow
def test_adapters_make_two_bits_better_and_runs_go_on(tmp_path: Path) -> None:
    class Killed(Exception):  # noqa: N818
        pass

    def kill(progress: Progress) -> None:
        if progress.step == 7:
            raise Killed

    def run(family: Any, folder: Path, **how: Any) -> Tensor:
        optimizer = torch.optim.AdamW(LlmQfa.adapters(family), lr=0.05)
        train(family, [(X, Y)] * 12, F.cross_entropy, steps=12, recipe=BalancedBits(period=6), optimizer=optimizer,
              folder=folder, save_every=4, **how)  # fmt: skip
        outputs: Tensor = family.extract(of_bits(family, 2))(X).detach()
        return outputs

    family = vit()
    before = F.cross_entropy(family.extract(of_bits(family, 2))(X).detach(), Y)
    whole = run(family, tmp_path / "whole")
    assert float(F.cross_entropy(whole, Y)) < 0.9 * float(before)
    with pytest.raises(Killed):
        run(vit(), tmp_path / "parts", on_step=kill)
    assert torch.equal(run(stirred(vit()), tmp_path / "parts"), whole)
    family.save(tmp_path / "family")
    loaded = Family.load(tmp_path / "family", ViT())
    assert torch.equal(loaded.extract(of_bits(loaded, 2))(X).detach(), whole)
    assert not loaded.extra["head.bits2.weight"].requires_grad


# ---- where, and what is refused --------------------------------------------------------------------------------------
def test_limits_leave_the_given_weights_out() -> None:
    torch.manual_seed(0)
    net = ViT()
    analysis = analyze(net, (X,))
    family = Family(net, (X,), [SMALL], constraints=SMALL.limits(analysis), analysis=analysis)
    assert set(family.space.largest().values()) == {4}
    assert family.space.size == 3**10


def test_a_part_of_the_network_half_precision_and_wrong_fields() -> None:
    torch.manual_seed(0)
    family = Family(ViT().double(), (X.double(),), [at("blocks.0*", SMALL)])
    assert {choice.name.split(".")[1] for choice in family.space.choices} == {"0"}
    assert family.space.choices[0].options[-1] == 64
    assert family.extra["blocks.0.fc1.bits2.weight"].dtype == torch.float64
    for fields in ({"bits": ()}, {"bits": (4, 2)}, {"bits": (0, 2)}, {"bits": (9,)}, {"group": 0}, {"rank": 0}):
        with pytest.raises(WrongShapeError, match="LlmQfa"):
            LlmQfa(**fields)
    with pytest.warns(NoEffectWarning, match="nothing"):
        Family(nn.Sequential(nn.Conv1d(1, 2, 3)), (vectors(1, 1, 5),), [LlmQfa()])
