"""TangleNAS: which step trains what, its samplers, that its favourite is a good member, and that it can be killed."""

from __future__ import annotations

import itertools
import random
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from pliant.checks import PliantError, UnknownNameError, WrongShapeError
from pliant.family import Family
from pliant.family.blend import Blend
from pliant.space import Choice, Config, Space
from pliant.techniques.elastic.depth import Depth
from pliant.techniques.elastic.width import Width
from pliant.techniques.train._adam import adam
from pliant.techniques.train.tangle_nas import TangleNas, _sampled
from pliant.training import Progress, TrainingStep, train
from tests.family.nets import ViT, vectors
from tests.training.toy import batches, loss, mlp, same, state

X, Y = vectors(3, 4, 6), torch.tensor([0, 4, 2])


def vit() -> Family:
    torch.manual_seed(0)
    return Family(ViT(), (X,), [Width(multiple=4), Depth()])


def test_even_steps_train_weights_and_odd_ones_logits() -> None:
    family = vit()
    seen: list[dict[str, Tensor]] = []
    last_state = [state(family)]
    changed: list[tuple[bool, bool]] = []

    def told(progress: Progress) -> None:
        logits = {name: row.clone() for name, row in progress.memory["logits"].items()}
        now = state(family)
        before = seen[-1] if seen else {name: torch.zeros_like(row) for name, row in logits.items()}
        changed.append(
            (not same(now, last_state[0]), any(not torch.equal(before[n], row) for n, row in logits.items()))
        )
        last_state[0] = now
        seen.append(logits)

    train(family, [(X, Y)] * 6, F.cross_entropy, steps=6, recipe=TangleNas(first=0.5), on_step=told)
    # Steps 0 to 2 train weights alone; then 3 logits, 4 weights, 5 logits.
    assert changed == [(True, False)] * 3 + [(False, True), (True, False), (False, True)]


def test_a_family_of_one_member_learns_in_every_step() -> None:
    family = Family(mlp().model, (torch.randn(4, 8),), [])
    states = [state(family)]
    train(family, batches, loss, steps=4, recipe=TangleNas(first=0.0), on_step=lambda _: states.append(state(family)))
    assert all(not same(left, right) for left, right in itertools.pairwise(states[:-1]))


def test_its_gradients_are_those_of_the_blend_by_autograd() -> None:
    family = vit()
    logits = {c.name: torch.randn(len(c.options)).requires_grad_() for c in family.space.choices}
    odds = {name: row.softmax(0) for name, row in logits.items()}
    family.model.train()
    F.cross_entropy(Blend(family)(odds, X), Y).backward()
    wanted = {name: row.grad for name, row in logits.items()}
    weights = [p.grad.clone() for p in family.parameters() if p.grad is not None]
    family.model.zero_grad()
    turn = TrainingStep(family, (X, Y), F.cross_entropy)
    found = turn.blend({name: row.detach() for name, row in odds.items()})
    for name, row in logits.items():
        again = row.detach().requires_grad_()
        again.softmax(0).backward(found[name])
        assert torch.allclose(again.grad, wanted[name], atol=1e-6)  # type: ignore[arg-type]
    pairs = zip(weights, (p.grad for p in family.parameters() if p.grad is not None), strict=True)
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in pairs)
    family.model.zero_grad()
    turn.blend({name: row.detach() for name, row in odds.items()}, learn=False)
    assert all(p.grad is None or not p.grad.any() for p in family.parameters())


@pytest.mark.parametrize("sampler", ["softmax", "dirichlet", "gumbel"])
def test_samplers_give_probabilities_and_gradients(sampler: str) -> None:
    rows, logits = [], torch.tensor([0.0, 1.0, -1.0], requires_grad=True)
    for seed in range(400):
        row = _sampled(logits, sampler, 1.0, torch.Generator().manual_seed(seed))
        assert float(row.detach().sum()) == pytest.approx(1, abs=1e-5)
        assert float(row.detach().min()) >= 0
        rows.append(row)
    found = torch.stack(rows).mean(0)
    concentration = F.elu(logits.detach()) + 1
    wanted = concentration / concentration.sum() if sampler == "dirichlet" else logits.detach().softmax(0)
    assert torch.allclose(found.detach(), wanted, atol=0.06)  # the mean of a Dirichlet, of Gumbel's argmax
    assert all(set(row.detach().round(decimals=5).abs().tolist()) == {0.0, 1.0} for row in rows) == (
        sampler == "gumbel"
    )
    gradient = torch.autograd.grad(found[1], logits)[0]
    assert gradient[1] > 0
    assert gradient[0] < 0


def test_adam_is_torchs() -> None:
    weight, kept, twin = torch.randn(5), {}, torch.nn.Parameter(torch.empty(5))  # type: ignore[var-annotated]
    twin.data.copy_(weight)
    optimizer = torch.optim.Adam([twin], lr=0.1, betas=(0.5, 0.999))
    for step in range(1, 5):
        gradient = torch.randn(5)
        adam(weight, gradient, kept, step, 0.1, (0.5, 0.999))
        twin.grad = gradient
        optimizer.step()
        assert torch.allclose(weight, twin, atol=1e-6)


def test_forbidden_options_have_no_probability_and_the_favourite_keeps_the_constraints() -> None:
    family = Family(ViT(), (X,), [Width(multiple=4), Depth()], constraints=["blocks.depth >= 2"])
    name = next(choice.name for choice in family.space.choices if choice.name.endswith("depth"))
    recipe = TangleNas(sampler="softmax")
    turn = TrainingStep(family, (X, Y), F.cross_entropy)
    rows = recipe._probabilities(turn, {c.name: torch.zeros(len(c.options)) for c in family.space.choices}, "softmax")
    choice = next(c for c in family.space.choices if c.name == name)
    assert [float(p) > 0 for p in rows[name]] == [int(option) >= 2 for option in choice.options]  # type: ignore[arg-type]
    memory = {"logits": {c.name: torch.arange(len(c.options), 0, -1.0) for c in family.space.choices}}
    assert TangleNas.best(family.space, memory) == family.space.smallest()


def test_the_favourite_is_the_most_probable_by_brute_force() -> None:
    space = Space([Choice("a", (1, 2, 3)), Choice("b", (1, 2, 3, 4))])
    rng = random.Random(3)
    memory = {"logits": {c.name: torch.tensor([rng.gauss(0, 1) for _ in c.options]) for c in space.choices}}
    logs = {name: row.log_softmax(0) for name, row in memory["logits"].items()}
    every = [Config({"a": a, "b": b}) for a in (1, 2, 3) for b in (1, 2, 3, 4)]
    wanted = max(every, key=lambda c: float(logs["a"][int(str(c["a"])) - 1] + logs["b"][int(str(c["b"])) - 1]))
    assert TangleNas.best(space, memory) == wanted
    with pytest.raises(PliantError, match=r"Progress\.memory"):
        TangleNas.best(space, {})


@pytest.mark.parametrize("sampler", ["dirichlet", "gumbel"])
def test_killed_and_resumed_it_is_what_it_was(sampler: str, tmp_path: Any) -> None:
    class Stopped(Exception):  # noqa: N818
        pass

    def stop(progress: Progress) -> None:
        if progress.step == 6:
            raise Stopped

    recipe = TangleNas(sampler=sampler, first=0.2)
    whole, parts = mlp(), mlp()
    last = train(whole, batches, loss, steps=9, recipe=recipe, folder=tmp_path / "a", save_every=4)
    with pytest.raises(Stopped):
        train(parts, batches, loss, steps=9, recipe=recipe, folder=tmp_path / "b", save_every=4, on_step=stop)
    parts = mlp(seed=4)
    again = train(parts, batches, loss, steps=9, recipe=recipe, folder=tmp_path / "b", save_every=4)
    assert same(state(whole), state(parts))
    for name, row in last.memory["logits"].items():
        assert torch.equal(row, again.memory["logits"][name])


def test_it_finds_the_width_that_the_labels_need() -> None:
    """Only the first four units carry the answer and the others noise: the small width is right, and is found."""
    torch.manual_seed(0)
    first, last_layer = torch.nn.Linear(4, 16), torch.nn.Linear(16, 2)
    net = torch.nn.Sequential(first, torch.nn.Tanh(), last_layer)
    with torch.no_grad():
        first.weight[4:] = 3 * torch.randn(12, 4)
        last_layer.weight[:, 4:] = 2 * torch.randn(2, 12)  # large and wrong, and never trained away
    for parameter in net.parameters():
        parameter.requires_grad_(False)
    family = Family(net, (torch.randn(4, 4),), [Width(ratios=(0.25, 1.0), multiple=4)])
    family.prepare({})  # units stay in their places
    with torch.no_grad():
        answer = family.member(family.space.smallest())
    x = torch.randn(256, 4)
    labels = answer(x).argmax(1)
    for parameter in net.parameters():
        parameter.requires_grad_(True)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.0)
    for sampler in ("softmax", "dirichlet", "gumbel"):
        recipe = TangleNas(sampler=sampler, first=0.0, lr=0.1)
        last = train(family, [(x, labels)] * 60, F.cross_entropy, steps=60, recipe=recipe, optimizer=optimizer)
        assert TangleNas.best(family.space, last.memory) == family.space.smallest(), sampler


def test_wrong_fields() -> None:
    with pytest.raises(UnknownNameError, match="dirichlet"):
        TangleNas(sampler="dirichlett")
    for fields in ({"lr": 0.0}, {"first": 2.0}, {"decay": -1.0}, {"cold": 0.0}):
        with pytest.raises(WrongShapeError, match=r"TangleNas\."):
            TangleNas(**fields)  # type: ignore[arg-type]
