"""SuperTickets: what is withdrawn and masked, when, and that the ticket is the masked member with its zeros."""

from __future__ import annotations

import random
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pliant import export
from pliant.checks import PliantError, WrongShapeError
from pliant.family import Family
from pliant.space import Config, Space
from pliant.techniques.elastic.depth import Depth
from pliant.techniques.elastic.weight_masks import WeightMasks
from pliant.techniques.elastic.width import Width
from pliant.techniques.train._importance import Importance, Shrinking
from pliant.techniques.train.super_tickets import SuperTickets, _below, prune, zeros
from pliant.training import Progress, TrainingStep, train
from tests.family.nets import ConvNet, ViT, images, vectors
from tests.techniques.train.turns import Deep, Killed, data_of, digit_batches, digits, fresh
from tests.training.toy import Mlp, same, state

FEW = SuperTickets(moments=3, search=(0.0, 0.5), prune=(0.0, 0.6), between=1)


def made(kind: str, **how: Any) -> Any:
    net, x = {"vit": (ViT, vectors(3, 4, 6)), "convnet": (ConvNet, images()), "mlp": (Mlp, vectors(4, 8))}[kind]
    torch.manual_seed(0)
    return Family(net(), (x,), [WeightMasks(), Width(multiple=4), *([] if kind == "mlp" else [Depth(**how)])])


def run(family: Family, kind: str, recipe: SuperTickets, steps: int, **how: Any) -> Progress:
    from tests.training.toy import batches as rows

    optimizer = torch.optim.SGD(family.parameters(), lr=0.05, momentum=0.9)
    given: Any = rows if kind == "mlp" else data_of(kind)
    return train(family, given, F.cross_entropy, steps=steps, recipe=recipe, optimizer=optimizer, **how)


@pytest.mark.slow
# ---- the ticket ------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("kind", ["vit", "convnet", "mlp"])
def test_the_extracted_ticket_is_the_masked_member_with_exactly_its_zeros(kind: str) -> None:
    family = made(kind)
    last = run(family, kind, FEW, 6)
    config = SuperTickets.ticket(family.space, last.memory)
    whole, left = (Shrinking(family).cost(c) for c in (family.space.largest(), config))
    assert left <= 0.5 * whole
    x = next(data_of(kind)(9))[0] if kind != "mlp" else vectors(4, 8, seed=9)
    ticket, member = family.extract(config), family.ready(config)
    assert torch.allclose(ticket(x), member(x), atol=1e-6)
    weights = [p for name, p in ticket.named_parameters() if name.endswith("weight") and p.dim() > 1]
    hidden = sum(int((p == 0).sum()) for p in weights)
    assert hidden == round(0.8 * sum(p.numel() for p in weights))
    assert (hidden, sum(p.numel() for p in weights)) == zeros(family, config)


@pytest.mark.slow
def test_an_exported_ticket_has_its_zeros(tmp_path: Path) -> None:
    family, x = made("vit"), vectors(3, 4, 6)
    last = run(family, "vit", FEW, 3)
    ticket = family.extract(SuperTickets.ticket(family.space, last.memory))
    export(ticket, tmp_path / "ticket.pt2", (x,), time=False)
    loaded = torch.export.load(tmp_path / "ticket.pt2")
    assert torch.allclose(loaded.module()(x), ticket(x), atol=1e-6)
    for name, weight in ticket.named_parameters():
        assert torch.equal(loaded.state_dict[name] == 0, weight == 0)


def test_both_schedules_are_kept_at_every_step() -> None:
    family, steps = made("vit"), 12
    recipe = SuperTickets(budget=0.4, sparsity=0.6, moments=3, search=(0.25, 0.5), prune=(0.0, 0.75), between=0)
    seen: list[tuple[Config, tuple[int, int]]] = []

    def told(progress: Progress) -> None:
        config = SuperTickets.ticket(family.space, progress.memory)
        assert progress.learnt == (config,)
        seen.append((config, zeros(family, config)))

    run(family, "vit", recipe, steps, on_step=told)
    share, shrinking = [], Shrinking(family)
    for _, (hidden, count) in seen:
        share.append(hidden / count)
        assert any(hidden == round(0.6 * k / 3 * count) for k in range(4))
    pruned = [0.2] * 4 + [0.4] * 5 + [0.6] * 3  # at steps 0, 4 (0.375 of 12, rounded to even) and 9
    assert share == pytest.approx(pruned, abs=0.5 / 700)
    cost = [shrinking.cost(config) / shrinking.cost(family.space.largest()) for config, _ in seen]
    allowed = [1.0] * 3 + [0.8] + [0.6] * 2 + [0.4] * 6  # at steps 3, 4 (4.5) and 6
    assert len(cost) == len(allowed)
    assert all(a >= b for a, b in pairwise(cost))
    assert [c <= a for c, a in zip(cost[:4] + cost[6:], allowed[:4] + allowed[6:], strict=True)] == [True] * 10
    for (before, _), (after, _) in pairwise(seen):
        assert all(after[name] <= before[name] for name in before)  # type: ignore[operator]


def test_moments_are_spread_over_their_window() -> None:
    recipe = SuperTickets(moments=5)
    passed = [recipe.passed((0.1, 0.5), step, 20) for step in range(20)]
    assert passed == [0] * 2 + [1] * 2 + [2] * 2 + [3] * 2 + [4] * 2 + [5] * 10
    assert [recipe.passed((1.0, 1.0), step, 20) for step in (18, 19)] == [0, 5]  # the last step at the latest
    assert [SuperTickets(moments=1).passed((0.5, 1.0), step, 4) for step in range(4)] == [0, 0, 1, 1]


# ---- pruning ---------------------------------------------------------------------------------------------------------
def test_the_smallest_weights_of_all_layers_together_are_masked() -> None:
    family = made("vit")
    config = family.space.smallest()
    prune(family, config, 0.3)
    net, plain = family.extract(config), Family(family.model, (vectors(3, 4, 6),), [Width(multiple=4), Depth()])
    cut = {n: p for n, p in plain.extract(config).named_parameters() if f"mask/{n}" in family.extra}
    order = sorted(float(v.abs()) for p in cut.values() for v in p.detach().flatten())
    threshold = order[round(0.3 * len(order)) - 1]
    for name, weight in cut.items():
        assert torch.equal(net.get_parameter(name) != 0, weight.abs() > threshold), name
    for name, mask in family.extra.items():  # what this member lacks is shown
        assert float(mask.sum()) >= mask.numel() - cut.get(name.removeprefix("mask/"), torch.zeros(0)).numel()


def test_of_equal_weights_just_as_many_are_masked_as_wanted() -> None:
    family = made("mlp")
    with torch.no_grad():
        for parameter in family.model.parameters():
            parameter.fill_(0.5)
    prune(family, family.space.largest(), 1 / 3)
    hidden, count = zeros(family, family.space.largest())
    assert hidden == round(count / 3)


def test_weights_come_back_when_they_have_grown() -> None:
    family = made("mlp")
    top, weight = family.space.largest(), family.model.fc1.weight
    prune(family, top, 0.5)
    mask = family.extra["mask/fc1.weight"]
    at = tuple(int(i) for i in (mask == 0).nonzero()[0])
    family.member(top)(vectors(4, 8)).square().sum().backward()
    assert weight.grad is not None
    assert weight.grad[at] != 0  # it learns while it counts as zero
    with torch.no_grad():
        weight[at] = 5.0
    prune(family, top, 0.5)
    assert mask[at] == 1


# ---- searching -------------------------------------------------------------------------------------------------------
def test_batch_norm_scales_tell_which_units_matter() -> None:
    family = made("convnet")
    with torch.no_grad():
        family.model.blocks[0].norm1.weight.mul_(torch.linspace(2.0, 0.1, 16))
        family.model.blocks[1].norm2.weight.fill_(0.01)  # the second block hardly adds anything
    scales = torch.cat([m.weight for m in family.model.modules() if isinstance(m, nn.BatchNorm2d)])
    importance = Importance(family)
    found = importance.units("blocks.0.width")
    assert torch.allclose(found.float(), family.model.blocks[0].norm1.weight / scales.mean())
    assert importance.block("blocks.1") == pytest.approx(0.01 / ((0.01 + 1.0) / 2))
    largest = family.space.largest()
    half = Config({**largest, "blocks.0.width": 8})
    cut = importance.cut(family.draft(largest), family.draft(half))
    assert cut == pytest.approx(float(found[8:].mean()))
    first = Shrinking(family).down_to(largest, 0.99 * Shrinking(family).cost(largest))
    assert first == Config({**largest, "blocks.depth": 1})


def test_without_batch_norm_the_weights_of_the_units_do() -> None:
    family = made("vit")
    with torch.no_grad():
        family.model.blocks[1].fc1.weight[-8:] *= 0.01
        family.model.blocks[1].fc2.weight[:, -8:] *= 0.01
    views = family.weight_views("blocks.1.width")
    shares = [rows.abs().mean(1) / rows.abs().mean() for rows in views.values()]
    assert torch.allclose(Importance(family).units("blocks.1.width").float(), torch.stack(shares).mean(0), atol=1e-6)
    largest, shrinking = family.space.largest(), Shrinking(family)
    first = shrinking.down_to(largest, 0.999 * shrinking.cost(largest))
    assert {n for n in largest if first[n] != largest[n]} == {"blocks.1.width"}
    least = shrinking.down_to(largest, 0.0)  # nothing is left to withdraw
    assert shrinking.cost(least) == shrinking.cost(family.space.smallest())


def test_costs_are_those_of_the_family_without_masks() -> None:
    from pliant.family.counts import macs_shares

    family, plain = made("vit"), fresh("vit")
    shrinking, share = Shrinking(plain), macs_shares(plain)
    whole, rng = shrinking.cost(plain.space.largest()), random.Random(0)
    for config in (plain.space.smallest(), *(plain.space.sample(rng) for _ in range(4))):
        assert shrinking.cost(config) / whole == pytest.approx(share(config))
    assert Shrinking(family).cost(family.space.largest()) == whole


def test_the_least_important_of_the_units_that_are_left_go_wherever_they_are() -> None:
    """The front unit of an axis hardly counts: it is sorted behind the others, and cut. Nothing else changes."""
    family, x = made("convnet"), images(seed=5)
    family.prepare()
    norm, scale = family.model.blocks[0].norm1, torch.linspace(0.5, 1.5, 16)
    with torch.no_grad():
        norm.weight.copy_(scale)
        norm.weight[0] = 1e-4
    whole = family.extract(family.space.largest())(x)
    turn = TrainingStep(family, (x, torch.tensor([0, 4, 2])), F.cross_entropy)
    top = Config({**family.space.largest(), "blocks.0.width": 12})
    SuperTickets._sort(turn, top)
    assert torch.allclose(family.extract(family.space.largest())(x), whole, atol=1e-5)
    found = norm.weight.detach()
    assert torch.equal(found[:12], torch.cat([scale[1:12].flip(0), torch.tensor([1e-4])]))  # units that have gone stay
    assert torch.equal(found[12:], scale[12:].flip(0))
    cut = family.extract(Config({**top, "blocks.0.width": 8}))
    assert float(cut.blocks[0].norm1.weight.detach().abs().min()) > 0.5


def test_constraints_are_kept() -> None:
    torch.manual_seed(0)
    family = Family(ConvNet(), (images(),), [WeightMasks(), Width(multiple=4), Depth()], None, ["blocks.depth >= 2"])
    last = run(family, "convnet", SuperTickets(budget=0.0, moments=1, search=(0.0, 0.0), between=2), 2)
    ticket = SuperTickets.ticket(family.space, last.memory)
    assert ticket == family.space.smallest()
    assert ticket["blocks.depth"] == 2


def test_members_beside_it_have_nothing_that_it_lacks() -> None:
    space, rng = made("vit").space, random.Random(1)
    top = Config({**space.largest(), "blocks.0.width": 16, "blocks.depth": 1})
    drawn = [_below(space, top, rng) for _ in range(50)]
    assert all(config[name] <= top[name] for config in drawn for name in top)  # type: ignore[operator]
    assert len(set(drawn)) > 10
    assert _below(Space([]), Config({}), rng) == Config({})


@pytest.mark.slow
# ---- runs ------------------------------------------------------------------------------------------------------------
def test_a_killed_run_goes_on_with_the_same_weights_and_masks(tmp_path: Path) -> None:
    def kill(progress: Progress) -> None:
        if progress.step == 5:
            raise Killed

    def everything(family: Family) -> dict[str, Tensor]:
        return state(family) | {name: value.detach().clone() for name, value in family.extra.items()}

    whole = made("vit")
    last = run(whole, "vit", FEW, 8, folder=tmp_path / "whole", save_every=2)
    parts = made("vit")
    with pytest.raises(Killed):
        run(parts, "vit", FEW, 8, folder=tmp_path / "parts", save_every=2, on_step=kill)
    with torch.no_grad():
        for parameter in parts.parameters():  # other weights and masks: all must come from the checkpoint
            parameter.add_(1.0)
    again = run(parts, "vit", FEW, 8, folder=tmp_path / "parts", save_every=2)
    assert same(everything(whole), everything(parts))
    assert again.memory == last.memory


@pytest.mark.slow
def test_where_little_is_left_it_beats_searching_first_and_pruning_then() -> None:
    """On digits, with equal steps and as many weights left; with milder schedules it does not."""
    (_, _), (x, y) = digits()
    torch.manual_seed(0)
    family = Family(Deep(), (x[:4],), [WeightMasks(), Width(), Depth(least=0.25)])
    together = SuperTickets(budget=0.4, sparsity=0.9)
    after = SuperTickets(budget=0.4, sparsity=0.9, search=(0.1, 0.35), prune=(0.4, 0.7))
    for seed in (0, 1):
        found = {}
        for recipe in (together, after):
            torch.manual_seed(seed)
            family.model.load_state_dict(Deep().state_dict())
            prune(family, family.space.largest(), 0.0)
            family.prepared = False
            optimizer = torch.optim.AdamW(family.parameters(), lr=0.005, fused=True)
            last = train(
                family, digit_batches, F.cross_entropy, steps=300, recipe=recipe, optimizer=optimizer, seed=seed
            )
            config = SuperTickets.ticket(family.space, last.memory)
            error = float((family.extract(config)(x).argmax(1) != y).float().mean())
            found[recipe] = error, zeros(family, config)
        assert found[together][1] == found[after][1]
        assert found[together][0] < found[after][0] - 0.03


def test_the_run_needs_a_family_with_masks_and_memory_of_its_own() -> None:
    with pytest.raises(PliantError, match=r"holds none: make it with pliant\.WeightMasks\(\)"):
        run(fresh("vit"), "vit", FEW, 2)
    with pytest.raises(PliantError, match="a run with SuperTickets"):
        SuperTickets.ticket(fresh("vit").space, {})


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"budget": 1.5}, "budget is a share, from 0 to 1; got 1.5"),
        ({"sparsity": 1.0}, "sparsity is a share of the weights below 1"),
        ({"moments": 0}, "moments is a whole number, 1 or more"),
        ({"between": -1}, "between is a whole number, 0 or more"),
        ({"search": (0.5, 0.2)}, "search is two shares of the steps, the first moment and the last"),
        ({"prune": (0.5,)}, "prune is two shares"),
    ],
)
def test_wrong_fields_are_refused(wrong: dict[str, Any], words: str) -> None:
    with pytest.raises(WrongShapeError, match=words):
        SuperTickets(**wrong)
