"""The sandwich recipe: who learns, from whom, that gradients are those of separate networks, and that it helps."""

from __future__ import annotations

import copy
import random
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pliant.checks import WrongShapeError
from pliant.family import Family
from pliant.space import Choice, Config, Space
from pliant.technique import Recipe
from pliant.techniques.elastic.depth import Depth
from pliant.techniques.elastic.width import Width
from pliant.techniques.train.sandwich import Sandwich
from pliant.training import TrainingStep, distillation_loss, train
from pliant.training.course import Course
from tests.family.nets import ViT, vectors
from tests.techniques.train.turns import Notes
from tests.training.toy import batches, loss, mlp, same, state

SPACE = Space([Choice("a", (1, 2, 3)), Choice("b", (1, 2, 3, 4))])


@pytest.mark.parametrize("between", [0, 1, 3])
def test_the_largest_the_smallest_and_some_between_learn(between: int) -> None:
    turn: Any = Notes(SPACE)
    Sandwich(between=between, share=0.3, temperature=2.0, together=True).step(turn)
    configs = [config for config, _ in turn.calls]
    assert len(configs) == between + 2
    assert configs[0] == SPACE.largest()
    assert configs[-1] == SPACE.smallest()
    twin = random.Random("0:0")
    assert configs[1:-1] == [SPACE.sample(twin) for _ in range(between)]
    assert turn.calls[0][1] == {}  # the largest learns from the labels alone
    wanted = {"teacher": "outputs 1", "share": 0.3, "temperature": 2.0, "weight": 1 / (between + 1)}
    assert all(how == wanted for _, how in turn.calls[1:])  # together they weigh as much as the largest


def test_a_space_of_one_member_learns_once() -> None:
    turn: Any = Notes(Space([]))
    Sandwich().step(turn)
    assert len(turn.calls) == 1


@pytest.mark.parametrize(
    "wrong", [{"between": -1}, {"temperature": 0.0}, {"share": 1.5}, {"share": -0.1}, {"balance": 0.0}]
)
def test_wrong_fields_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(WrongShapeError, match="Sandwich needs between >= 0"):
        Sandwich(**wrong)


@pytest.mark.slow
@pytest.mark.parametrize(("share", "balance"), [(0.0, 3.0), (0.5, 1.0), (1.0, 3.0)])
def test_its_gradient_is_the_weighted_sum_over_separate_networks(share: float, balance: float) -> None:
    x, y = vectors(3, 4, 6), torch.tensor([0, 4, 2])
    family = Family(ViT(), (x,), [Width(multiple=4), Depth()])
    turn = TrainingStep(family, (x, y), F.cross_entropy, step=5, seed=2)
    drawn = random.Random("2:5")
    configs = [family.space.sample(drawn), family.space.sample(drawn), family.space.smallest()]
    names = {id(p): name for name, p in family.model.named_parameters()}
    want = {name: torch.zeros_like(p) for name, p in family.model.named_parameters()}

    def add(config: Config, teacher: Tensor | None) -> Tensor:
        net = family.extract(config).train()
        outputs = net(x)
        loss = F.cross_entropy(outputs, y)
        if teacher is not None:
            loss = balance / 3 * (share * distillation_loss(outputs, teacher, 1.5) + (1 - share) * loss)
        loss.backward()
        slicing = family.draft(config).slicing()
        for name, parameter in net.named_parameters():
            picks, shape = slicing.picks(name) or (None,) * parameter.dim(), want[name].shape
            kept = [torch.arange(s)[p if p is not None else slice(None)] for p, s in zip(picks, shape, strict=True)]
            want[name][torch.meshgrid(*kept, indexing="ij")] += parameter.grad if parameter.grad is not None else 0
        return outputs.detach()

    teacher = add(family.space.largest(), None)
    for config in configs:
        add(config, teacher)
    Sandwich(between=2, share=share, balance=balance, temperature=1.5, together=True).step(turn)
    for parameter in family.parameters():
        wanted = want[names[id(parameter)]]
        assert parameter.grad is not None
        assert float((parameter.grad - wanted).abs().max()) <= 1e-6 * max(1.0, float(wanted.abs().max()))


def test_one_optimizer_step_after_each_member() -> None:
    turn: Any = Notes(SPACE)
    Sandwich(between=1, together=False).step(turn)
    assert ["update" in how for _, how in turn.calls] == [False, True, False, True, False]  # the loop does the last
    assert [how["weight"] for _, how in turn.calls if "weight" in how] == [1.0, 1.0]


def test_the_second_member_starts_from_what_the_first_has_changed() -> None:
    """Plain gradient descent by hand, on the two networks extracted one after the other."""
    x, y = vectors(3, 4, 6), torch.tensor([0, 4, 2])
    family = Family(ViT(), (x,), [Width(multiple=4)])
    family.prepare({})  # nothing is sorted: the twin is not either
    twin = Family(copy.deepcopy(family.model), (x,), [Width(multiple=4)])
    optimizer = torch.optim.SGD(family.parameters(), lr=0.1)
    recipe = Sandwich(between=0, share=0.4, together=False)
    train(family, [(x, y)], F.cross_entropy, steps=1, recipe=recipe, optimizer=optimizer, clip=None, warmup=0)

    def descend(config: Config, teacher: Tensor | None) -> Tensor:
        outputs = twin.member(config)(x)
        loss = F.cross_entropy(outputs, y)
        if teacher is not None:
            loss = 0.4 * distillation_loss(outputs, teacher) + 0.6 * loss
        twin.model.zero_grad()
        loss.backward()
        with torch.no_grad():
            for parameter in twin.parameters():
                if parameter.grad is not None:
                    parameter.sub_(0.1 * parameter.grad)
        return outputs.detach()

    teacher = descend(twin.space.largest(), None)
    descend(twin.space.smallest(), teacher)
    for own, wanted in zip(family.parameters(), twin.parameters(), strict=True):
        assert torch.allclose(own, wanted, atol=1e-6)


class Largest(Recipe):
    """Ordinary training: only the full network learns."""

    def step(self, turn: Any) -> None:
        turn.learn(turn.space.largest())


def _digits() -> dict[str, tuple[Tensor, Tensor]]:
    from sklearn.datasets import load_digits

    bunch = load_digits()
    x, y = torch.tensor(bunch.data, dtype=torch.float32) / 16, torch.tensor(bunch.target)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    return {"train": (x[order[:1200]], y[order[:1200]]), "test": (x[order[1200:]], y[order[1200:]])}


def _error(net: nn.Module, split: tuple[Tensor, Tensor]) -> float:
    with torch.no_grad():
        return float((net(split[0]).argmax(1) != split[1]).float().mean())


@pytest.mark.parametrize("together", [True, False])
def test_where_the_run_has_a_teacher_the_largest_learns_from_it_too(together: bool) -> None:
    turn: Any = Notes(SPACE, taught="the teacher's")
    Sandwich(between=1, share=0.3, temperature=2.0, lead=0.7, together=together).step(turn)
    learnt = [how for _, how in turn.calls if "update" not in how]
    assert learnt[0] == {"teacher": "the teacher's", "share": 0.7, "temperature": 2.0}
    assert all(how["teacher"] == "outputs 1" and how["share"] == 0.3 for how in learnt[1:])


def test_the_largest_learns_its_share_from_the_runs_teacher() -> None:
    x, y = vectors(3, 4, 6), torch.tensor([0, 4, 2])
    teacher = ViT(dim=8).eval()
    family = Family(ViT(), (x,), [Width(multiple=4)])
    turn = TrainingStep(family, (x, y), F.cross_entropy, course=Course(family, F.cross_entropy, teacher=teacher))
    Sandwich(between=0, lead=0.25, temperature=2.0).step(turn)
    fresh = copy.deepcopy(family.model).train()
    outputs = fresh(x)
    wanted = 0.25 * distillation_loss(outputs, teacher(x), 2.0) + 0.75 * F.cross_entropy(outputs, y)
    assert turn.losses[family.space.largest()] == pytest.approx(float(wanted.detach()), rel=1e-6)


def test_a_teacher_of_no_say_changes_nothing() -> None:
    runs = [mlp(), mlp()]
    train(runs[0], batches, loss, steps=4, recipe=Sandwich())
    train(runs[1], batches, loss, steps=4, recipe=Sandwich(lead=0.0), teacher=nn.Linear(8, 3))
    assert same(state(runs[0]), state(runs[1]))


@pytest.mark.slow
def test_on_digits_the_smallest_member_beats_the_same_slice_of_an_ordinary_network() -> None:
    data = _digits()

    def batches(start: int) -> Any:
        while True:
            chosen = torch.randint(0, 1200, (64,), generator=torch.Generator().manual_seed(start))
            yield data["train"][0][chosen], data["train"][1][chosen]
            start += 1

    for seed in range(3):
        errors = {}
        for recipe in (Sandwich(between=1), Largest()):
            torch.manual_seed(seed)
            net = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
            family = Family(net, (data["test"][0][:4],), [Width(ratios=(0.25, 1.0))])
            optimizer = torch.optim.AdamW(net.parameters(), lr=0.01, fused=True)
            train(family, batches, F.cross_entropy, steps=150, recipe=recipe, optimizer=optimizer, seed=seed)
            smallest = family.extract(family.space.smallest())
            errors[type(recipe)] = (_error(smallest, data["test"]), _error(net, data["test"]))
        assert errors[Sandwich][0] < 0.5 * errors[Largest][0], errors
        assert errors[Sandwich][0] < 0.15, errors  # and is of use
        assert errors[Sandwich][1] < errors[Largest][1] + 0.03, errors  # at no great cost to the full network
