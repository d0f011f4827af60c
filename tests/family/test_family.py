"""The family: its largest member is the user's network, a member is what ships, and training a member stays in it."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from random import Random
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

import pliant
from pliant.checks import NoEffectWarning, PliantError, UnknownNameError, VerificationError, WrongShapeError
from pliant.family import Family, at
from pliant.space import Choice, Space
from pliant.techniques.elastic.depth import Depth
from pliant.techniques.elastic.width import Width
from tests.family.nets import (
    Answer,
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

ALL = Width(multiple=4, kinds=("width", "heads", "stream", "head_width"))
DEEP: dict[str, tuple[Callable[[], nn.Module], Callable[[], Tensor]]] = {
    "convnet": (ConvNet, images),
    "vit": (ViT, lambda: vectors(3, 4, 6)),
    "gpt": (Gpt, tokens),
}
FLAT: dict[str, tuple[Callable[[], nn.Module], Callable[[], Tensor]]] = {
    "branches": (Branches, lambda: vectors(4, 8)),
    "twice": (Twice, lambda: vectors(4, 8)),
    "hard-coded": (HardCoded, lambda: vectors(3, 4, 16)),
    "torch attention": (TorchAttention, lambda: vectors(3, 4, 16)),
}
GRAPH: dict[str, tuple[Callable[[], nn.Module], Callable[[], Tensor]]] = {
    "hard-coded and checked": (lambda: HardCoded(strict=True), lambda: vectors(3, 4, 16)),
    "hard-coded with statistics": (HardCodedNorm, lambda: vectors(3, 3, 4, 4)),
}
EVERY = DEEP | FLAT | GRAPH


def make(name: str) -> tuple[Any, Tensor]:
    kind, inputs = EVERY[name]
    x = inputs()
    return Family(kind(), (x,), [ALL, Depth()] if name in DEEP else [ALL]), x


@pytest.mark.parametrize("name", EVERY)
def test_the_largest_member_is_the_users_network_bit_for_bit(name: str) -> None:
    kind, inputs = EVERY[name]
    model, x = kind().eval(), inputs()
    before = model(x)
    state = {key: value.clone() for key, value in model.state_dict().items()}
    family = Family(model, (x,), [ALL])
    assert family.member(family.space.largest()) is model
    assert torch.equal(model(x), before)
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
    assert not model.training


@pytest.mark.parametrize("name", EVERY)
def test_an_extracted_network_equals_its_member_exactly(name: str, rng: Random) -> None:
    family, x = make(name)
    for config in (family.space.largest(), family.space.smallest(), *(family.space.sample(rng) for _ in range(3))):
        alone = family.extract(config)
        member = family.ready(config)
        with torch.no_grad():
            assert torch.equal(alone(x), member(x))
            assert alone(x[:1]).shape[0] == 1  # the batch is free
        own = {p.untyped_storage().data_ptr() for p in family.parameters()}
        assert not own & {p.untyped_storage().data_ptr() for p in alone.parameters()}
        if name not in GRAPH:
            assert isinstance(alone, type(family.model))
            copy.deepcopy(alone)
    family.model.train()
    family.extract(family.space.largest())
    assert family.model.training


@pytest.mark.parametrize("name", EVERY)
def test_both_forms_agree(name: str, rng: Random) -> None:
    family, _ = make(name)
    assert family.form == ("graph" if name in GRAPH else "module")
    for _ in range(3):
        assert family.verify(family.space.sample(rng)) <= 1e-5


@pytest.mark.parametrize("name", EVERY)
def test_a_step_through_a_member_changes_no_weight_outside_it(name: str, rng: Random) -> None:
    family, x = make(name)
    optimizer = torch.optim.SGD(family.parameters(), lr=0.5)
    for config in (family.space.smallest(), family.space.sample(rng)):
        slicing = family.draft(config).slicing()
        gone = tuple(f"{block.name}." for block in slicing.dropped)
        before = {key: p.detach().clone() for key, p in family.model.named_parameters()}
        optimizer.zero_grad()
        family.member(config)(x).square().sum().backward()
        optimizer.step()
        changed = 0
        for key, parameter in family.model.named_parameters():
            inside = torch.zeros(parameter.shape, dtype=torch.bool)
            if not (gone and key.startswith(gone)):
                picks = slicing.picks(key) or (None,) * parameter.dim()
                pairs = zip(picks, parameter.shape, strict=True)
                kept = [torch.arange(s)[p if p is not None else slice(None)] for p, s in pairs]
                inside[torch.meshgrid(*kept, indexing="ij")] = True
            assert torch.equal(parameter[~inside], before[key][~inside]), key
            changed += int((parameter != before[key]).sum())
        assert changed


def test_members_are_kept_and_configs_are_checked() -> None:
    family, _ = make("vit")
    small = family.space.smallest()
    assert family.member(small) is family.member(dict(small))
    with pytest.raises(UnknownNameError, match=r"did you mean 'blocks.0.width'"):
        family.member({**small, "blocks.0.widht": 8})
    with pytest.raises(UnknownNameError, match=r"'blocks.0.width'.*9"):
        family.member({**small, "blocks.0.width": 9})
    with pytest.raises(WrongShapeError, match=r"no option for 'blocks.depth'"):
        family.member({name: option for name, option in small.items() if name != "blocks.depth"})


def test_a_technique_that_finds_nothing_says_so_where_it_was_asked_for() -> None:
    with pytest.warns(NoEffectWarning, match=r"Depth\(.*nothing to bend") as caught:
        Family(Branches(), (vectors(4, 8),), [ALL, Depth()])
    assert [warning.filename for warning in caught] == [__file__]


def test_two_techniques_must_not_offer_the_same_choice() -> None:
    with pytest.raises(PliantError, match=r"two techniques offer a choice named 'a.width'.*pliant.at"):
        Family(Branches(), (vectors(4, 8),), [Width(multiple=4), Width(multiple=2)])
    family = Family(Branches(), (vectors(4, 8),), [at("a*", Width(multiple=4)), at("b*", Width(multiple=12))])
    assert {choice.name: choice.options for choice in family.space.choices} == {
        "a.width": (4, 8, 12, 16),
        "b.width": (12, 24),
    }


def test_a_technique_may_be_placed_on_a_part() -> None:
    model, x = ConvNet(blocks=4), images()
    family = Family(model, (x,), [at("blocks.[12]", Depth(least=0)), at("blocks.0.*", ALL)])
    assert [choice.name for choice in family.space.choices] == ["blocks.depth", "blocks.0.width"]
    assert family.space.choices[0].options == (0, 1, 2)
    assert family.member(family.space.largest()) is model
    for depth, gone in ((2, []), (1, ["blocks.2"]), (0, ["blocks.2", "blocks.1"])):
        slicing = family.draft({"blocks.depth": depth, "blocks.0.width": 16}).slicing()
        assert [block.name for block in slicing.dropped] == gone
    with pytest.raises(UnknownNameError, match=r"no part named 'block.*'"):
        Family(model, (x,), [at("block.*", Depth())])


def test_constraints_hold_for_every_member() -> None:
    family = Family(ConvNet(), (images(),), [ALL, Depth()], constraints=["blocks.depth <= 1", "stream >= 8"])
    assert family.space.largest()["blocks.depth"] == 1
    assert len(family.extract(family.space.largest())(images())) == 6
    with pytest.raises(WrongShapeError, match=r"breaks 'blocks.depth <= 1"):
        family.member({**family.space.largest(), "blocks.depth": 2})


def test_modes_follow_the_family() -> None:
    family, _ = make("convnet")
    net = family.member(family.space.smallest())
    assert net.training
    family.model.eval()
    assert not any(module.training for module in family.member(family.space.smallest()).modules())
    family.model.train()
    assert all(module.training for module in family.member(family.space.smallest()).modules())
    assert not family.ready(family.space.smallest()).training
    assert family.model.training


def test_keywords_and_outputs_in_containers() -> None:
    model, x, shift = Structured(), vectors(4, 8), vectors(4, 16)
    family = Family(model, (x,), [ALL], {"shift": shift, "scale": 0.5})
    config = family.space.smallest()
    member, alone = family.member(config), family.extract(config)
    answer = member(x, shift=shift, scale=0.5)
    assert isinstance(answer, Answer)
    for left, right in zip(
        pytree.tree_leaves(answer), pytree.tree_leaves(alone(x, shift=shift, scale=0.5)), strict=True
    ):
        assert torch.equal(left, right)
    (answer.logits.sum() + answer.parts["sum"][0].sum()).backward()
    assert model.fc1.weight.grad is not None
    assert float(model.fc1.weight.grad[:4].abs().sum()) > 0
    assert float(model.fc1.weight.grad[4:].abs().sum()) == 0


@pytest.mark.parametrize("name", GRAPH)
def test_members_in_graph_form_learn(name: str) -> None:
    family, x = make(name)
    goal = torch.randn(len(x), 3)
    optimizer = torch.optim.Adam(family.parameters(), lr=0.01)
    config, losses = family.space.smallest(), []
    for _ in range(30):
        optimizer.zero_grad()
        loss = (family.member(config)(x) - goal).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert sum(losses[-5:]) < 0.8 * sum(losses[:5])
    assert torch.equal(family.extract(config)(x), family.ready(config)(x))


def test_a_network_without_weights_can_be_analysed_and_bent() -> None:
    with torch.device("meta"):
        model = Gpt()
    x = tokens()
    analysis = pliant.analyze(model, (x,))
    family = Family(model, (x,), [ALL, Depth()], analysis=analysis)
    assert family.space.to_json() == make("gpt")[0].space.to_json()
    small: Any = family.member(family.space.smallest())
    assert small.head.weight.shape == (11, 4)
    assert all(p.is_meta for p in small.parameters())


def test_a_network_that_draws_random_numbers_draws_them_in_members_too() -> None:
    class Noisy(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(8, 16), nn.Linear(16, 3)

        def forward(self, x: Tensor) -> Tensor:
            h = torch.relu(self.a(x))
            return self.b(h + torch.rand_like(h))

    family, x = Family(Noisy(), (vectors(4, 8),), [ALL]), vectors(4, 8)
    net = family.extract(family.space.smallest())
    with torch.no_grad():
        assert not torch.equal(net(x), net(x))


def test_a_network_whose_output_depends_on_its_state_is_refused() -> None:
    class Counting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.calls = nn.Linear(8, 16), nn.Linear(16, 3), 0

        def forward(self, x: Tensor) -> Tensor:
            self.calls += 1
            return self.b(torch.relu(self.a(x))) * self.calls

    model = Counting()
    model(vectors(4, 8))
    with pytest.raises(VerificationError, match="or keep state"):
        Family(model, (vectors(4, 8),), [ALL])


def test_analysing_leaves_the_random_state_alone() -> None:
    model = Twice()
    before = torch.get_rng_state()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NoEffectWarning)
        family = Family(model, (vectors(4, 8),), [ALL])
    family.extract(family.space.smallest())
    assert torch.equal(torch.get_rng_state(), before)


def test_the_seed_of_an_accelerator_not_in_use_yet_is_left_to_the_user(monkeypatch: pytest.MonkeyPatch) -> None:
    seeds: list[int] = []
    for kind in (torch.cuda, torch.xpu, torch.mtia):
        monkeypatch.setattr(kind, "manual_seed_all", seeds.append)
    torch.manual_seed(5)
    assert set(seeds) == {5}
    family, _ = make("convnet")
    family.extract(family.space.smallest())
    assert set(seeds) == {5}


def test_extracting_leaves_the_mode_of_the_member_alone() -> None:
    family, _ = make("convnet")
    config = family.space.smallest()
    member = family.member(config).train()
    family.model.train()
    family.extract(config)
    assert all(module.training for module in member.modules())
    family.ready(config)
    family.extract(config)
    assert not any(module.training for module in member.modules())


def test_moving_the_model_takes_the_members_with_it() -> None:
    family, x = make("convnet")
    config = family.space.smallest()
    family.member(config)
    family.model.double()
    alone = family.extract(config)
    assert {t.dtype for t in alone.state_dict().values() if t.is_floating_point()} == {torch.float64}
    assert torch.equal(alone(x.double()), family.ready(config)(x.double()))
    any_: Any = family.member(config)
    assert any_.stem.weight.dtype == torch.float64


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        (nn.Identity(), r"the member's head was replaced: change family\.model and make a family of it"),
        (None, r"the member's head\.weight is not the family's any more"),
    ],
)
def test_a_member_that_somebody_has_changed_is_named(layer: nn.Module | None, message: str) -> None:
    x = vectors(3, 4, 6)
    family = Family(ViT(), (x,), [Width(ratios=(0.5, 1.0), multiple=4)])
    config = family.space.smallest()
    net: Any = family.member(config)
    net.head = layer or nn.Linear(net.head.in_features, net.head.out_features)
    with pytest.raises(VerificationError, match=message):
        family.extract(config)
    family.forget()
    assert torch.equal(family.extract(config)(x), family.ready(config)(x))


def test_a_family_and_its_analysis_are_shown_in_a_line() -> None:
    family = Family(nn.Sequential(nn.Linear(4, 32), nn.ReLU(), nn.Linear(32, 2)), (torch.randn(2, 4),), [Width()])
    assert repr(family) == "Family(Sequential: 1 choices, 4 members; members in module form)"
    assert repr(family.analysis) == "Analysis(1 axes bend, 0 blocks can be left out, 2 kept as they are)"
    family.space = Space([Choice(str(at), tuple(range(1, 11))) for at in range(400)])  # more than floats count
    assert "1.0e+400 members" in repr(family)
