"""BossNAS: blocks and what reaches into them, the teacher, no labels, gradients by hand, and ratings that rank."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from random import Random
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import pliant
from pliant.checks import PliantError, UnknownNameError, WrongShapeError
from pliant.family import Family
from pliant.space import Config
from pliant.techniques.elastic.depth import Depth
from pliant.techniques.elastic.width import Width
from pliant.techniques.train._blocks import Blocks
from pliant.techniques.train._bootstrap import apart, new_heads, noisy, predicted, projected
from pliant.techniques.train.boss_nas import BossNas
from pliant.training import Progress, train
from tests.family.nets import ConvNet, Gpt, HardCoded, ViT, images, tokens, vectors
from tests.techniques.train.turns import check_resume, check_runs, data_of, fresh, run
from tests.training.toy import Mlp, batch, batches, same, state

TINY = BossNas(paths=2, population=4, width=8, momentum=0.9)


def unused(outputs: Any, targets: Any) -> Tensor:
    raise AssertionError("labels are looked at")


def two_layers() -> Any:
    torch.manual_seed(0)
    return Family(Mlp(0.0), (vectors(4, 8),), [Width(multiple=4)])


# ---- blocks ----------------------------------------------------------------------------------------------------------
def test_blocks_end_at_residual_blocks_or_layers_and_choices_reach_where_they_change_something() -> None:
    found = Blocks.of(fresh("vit"), 4)
    assert found.borders == ("blocks.0", "blocks.1")
    own = [{f"blocks.{at}.attn.heads", f"blocks.{at}.width"} for at in (0, 1)]
    assert list(found.reach) == [own[0], own[1] | {"blocks.depth"}]  # the first block always stays
    assert [found.settled(at) for at in (0, 1)] == list(found.reach)
    found = Blocks.of(two_layers(), 4)
    assert found.borders == ("fc1", "fc2")
    assert list(found.reach) == [{"fc1.width"}, {"fc2.width"}]  # the second one's inputs are the first one's outputs
    assert Blocks.of(two_layers(), ("fc2",)).reach == (frozenset({"fc1.width", "fc2.width"}),)
    assert list(Blocks.of(fresh("vit"), 1).reach) == [own[0] | own[1] | {"blocks.depth"}]


class Two(nn.Module):
    """Two runs of residual blocks, as the stages of a ResNet."""

    def __init__(self) -> None:
        super().__init__()
        net = ConvNet()
        self.stem, self.norm, self.stage1, self.head = net.stem, net.norm, net.blocks, net.head
        self.stage2 = ConvNet(blocks=3).blocks

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norm(self.stem(x)))
        return self.head(self.stage2(F.max_pool2d(self.stage1(x), 2)).mean((2, 3)))


def test_several_runs_of_blocks_are_the_blocks() -> None:
    family = Family(Two(), (images(),), [Width(multiple=8), Depth()])
    assert Blocks.of(family, 4).borders == ("stage1.1", "stage2.2")
    assert [("stage1.depth" in names, "stage2.depth" in names) for names in Blocks.of(family, 4).reach] == [
        (True, False),
        (False, True),
    ]
    assert Blocks.of(family, ("stage1.0", "stage2")).borders == ("stage1.0", "stage2")


def test_what_all_blocks_share_reaches_into_all_of_them() -> None:
    family = Family(ConvNet(), (images(),), [Width(multiple=8, kinds=("stream",)), Depth(least=0.0)])
    found = Blocks.of(family, 2)
    stream = next(choice.name for choice in family.space.choices if choice.name != "blocks.depth")
    assert all(names == {stream, "blocks.depth"} for names in found.reach)
    assert [found.settled(at) for at in (0, 1)] == [set(), {stream, "blocks.depth"}]


def test_all_options_of_a_block_are_drawn_equally_often() -> None:
    family = fresh("vit")
    blocks, best = Blocks.of(family, 2), family.space.largest()
    drawn = blocks.fair(family, 0, best, 8, Random(1))
    for name in blocks.reach[0]:
        few = next(choice.options for choice in family.space.choices if choice.name == name)
        assert set(Counter(config[name] for config in drawn).values()) == {8 // len(few)}
    assert all(config[name] == best[name] for config in drawn for name in best if name not in blocks.reach[0])
    every = blocks.paths(family, 0, best, 100, Random(1))
    assert len(every) == len(set(every)) == 16
    assert len(set(blocks.paths(family, 0, best, 5, Random(1)))) == 5


def test_constraints_are_kept() -> None:
    family = Family(ViT(), (vectors(3, 4, 6),), [Width(multiple=8), Depth()], None, ["blocks.0.width <= 16"])
    blocks, best = Blocks.of(family, 2), family.space.largest()
    for config in (*blocks.fair(family, 0, best, 9, Random(0)), *blocks.paths(family, 0, best, 99, Random(0))):
        assert family.space.feasible(dict(config))


# ---- views, heads ----------------------------------------------------------------------------------------------------
def test_views_of_numbers_are_noisy_and_of_tokens_have_others_of_the_batch() -> None:
    x, ids, mask = 3 * vectors(100, 50), torch.arange(1000, 6000).view(100, 50), torch.ones(3, dtype=torch.bool)
    seen = noisy(0.2)({"x": x, "ids": ids, "mask": mask})
    assert float((seen["x"] - x).std()) == pytest.approx(0.6, rel=0.05)
    assert float((seen["ids"] != ids).float().mean()) == pytest.approx(0.2, abs=0.03)
    assert set(seen["ids"].flatten().tolist()) <= set(ids.flatten().tolist())
    assert seen["mask"] is mask


def test_heads_are_those_of_torch_layers() -> None:
    heads, x = new_heads(6, 4, torch.Generator().manual_seed(0), torch.zeros(1)), vectors(5, 6)

    def layers(names: tuple[str, str]) -> nn.Module:
        made = nn.Sequential(nn.Linear(6, 8, bias=False), nn.BatchNorm1d(8, affine=False), nn.ReLU(), nn.Linear(8, 4))
        made[0].weight, made[3].weight = (nn.Parameter(heads[name]) for name in names)
        made[3].bias = None  # type: ignore[assignment]
        return made

    through = layers(("project1", "project2"))(x)
    assert torch.allclose(projected(heads, x), through, atol=1e-6)
    assert torch.allclose(predicted(heads, x), layers(("predict1", "predict2"))(through), atol=1e-6)
    narrow = projected(heads, x[:, :4])
    assert torch.allclose(narrow, projected(heads, F.pad(x[:, :4], (0, 2))))
    a, b = vectors(5, 4), vectors(5, 4, seed=2)
    assert float(apart(a, b)) == pytest.approx(
        float((F.normalize(a) - F.normalize(b)).square().sum(1).mean()), rel=1e-5
    )


# ---- training --------------------------------------------------------------------------------------------------------
def test_the_teacher_is_the_moving_average_in_closed_form() -> None:
    family, kept = fresh("vit"), []
    family.prepare()
    kept.append({name: p.detach().clone() for name, p in family.model.named_parameters()})
    found: list[dict[str, Tensor]] = []

    def told(progress: Progress) -> None:
        kept.append({name: p.detach().clone() for name, p in family.model.named_parameters()})
        found.append({name: weight.clone() for name, weight in progress.memory["teacher"].items()})

    run(family, "vit", TINY, 6, on_step=told)
    momenta = [1 - 0.1 * 0.5 * (1 + math.cos(math.pi * step / 6)) for step in range(6)]
    for at, teacher in enumerate(found):  # in step t it has followed the weights of the steps before
        shares = [math.prod(momenta[1 : at + 1])]
        shares += [(1 - momenta[k]) * math.prod(momenta[k + 1 : at + 1]) for k in range(1, at + 1)]
        assert sum(shares) == pytest.approx(1.0)
        for name, weight in teacher.items():
            wanted = shares[0] * kept[0][name]
            for share, weights in zip(shares[1:], kept[1:], strict=False):
                wanted = wanted + share * weights[name]
            assert torch.allclose(weight, wanted, atol=1e-6), name


@pytest.mark.parametrize("kind", ["vit", "convnet"])
def test_labels_are_not_used(kind: str) -> None:
    def poisoned(start: int) -> Iterator[Any]:
        return ((x, torch.full_like(y, 4)) for x, y in data_of(kind)(start))

    found = []
    for data in (data_of(kind), poisoned):
        family = fresh(kind)
        torch.manual_seed(0)
        last = train(family, data, unused, steps=4, recipe=TINY)
        rating = TINY.rater(family, last.memory, [next(data(9))[0]])
        found.append((state(family), rating(family.space.smallest())))
    assert same(found[0][0], found[1][0])
    assert found[0][1] == found[1][1]


def test_each_block_learns_in_its_turn_and_the_head_never() -> None:
    family = fresh("vit")
    states = [state(family)]
    optimizer = torch.optim.AdamW(family.parameters(), lr=0.01, weight_decay=0.5)
    family.prepare({})  # nothing is sorted
    train(family, data_of("vit"), unused, steps=4, recipe=TINY, optimizer=optimizer,
          on_step=lambda progress: states.append(state(family)))  # fmt: skip
    for at, (before, after) in enumerate(pairwise(states)):
        changed = {name.split(".")[1] if name[:6] == "blocks" else name for name in before
                   if not torch.equal(before[name], after[name])}  # fmt: skip
        assert changed == ({"pos", "embed.weight", "embed.bias", "0"} if at < 2 else {"1"})


class Views:
    """Views that differ from call to call, and are known."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, inputs: Tensor) -> Tensor:
        self.calls += 1
        return inputs * (1 + 0.1 * self.calls) + 0.01 * self.calls


def test_the_gradient_is_that_of_separate_networks() -> None:
    from pliant.training import TrainingStep
    from tests.techniques.train.turns import check_gradient, spread

    family, x = fresh("vit"), vectors(3, 4, 6)
    family.model.train()
    turn = TrainingStep(family, (x, None), unused)
    BossNas(blocks=1, paths=2, width=8, view=Views()).step(turn)
    heads = turn.memory["heads"]["0"]
    heads = {part: {n: w.clone() for n, w in heads[part].items()} for part in ("student", "teacher")}
    assert not torch.equal(heads["student"]["project1"], heads["teacher"]["project1"])  # Adam has moved the student
    first = new_heads(16, 8, torch.Generator().manual_seed(Random("0:0").getrandbits(31)), x)
    blocks = Blocks.of(family, 1)
    rng = Random("0:0")
    rng.getrandbits(31)
    paths = blocks.fair(family, 0, family.space.largest(), 2, rng)
    assert turn.learnt == [paths[0]]

    def feature(net: Any, at: int) -> Tensor:
        h = net.embed(x * (1 + 0.1 * at) + 0.01 * at) + net.pos
        for block in net.blocks:
            h = block(h)
        return h.mean(1)

    nets = [family.extract(config) for config in paths]
    with torch.no_grad():  # views 1 and 2 are the first path's, 3 and 4 the second's
        rows = [[F.normalize(projected(first, feature(net, at))) for net, at in zip(nets, pair, strict=True)]
                for pair in ((1, 3), (2, 4))]  # fmt: skip
        centres = [(row[0] + row[1]) / 2 for row in rows]
    total: Any = 0.0
    for net, (one, two) in zip(nets, ((1, 2), (3, 4)), strict=True):
        for at, goal in ((one, centres[1]), (two, centres[0])):
            total = total + (F.normalize(predicted(first, feature(net, at))) - F.normalize(goal)).square().sum(1).mean()
    (total / 2).backward()
    assert turn.losses[paths[0]] == pytest.approx(float(total.detach()) / 2, rel=1e-5)
    for parameter in family.model.parameters():
        parameter.grad = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
    check_gradient(family, [spread(family, config, net) for config, net in zip(paths, nets, strict=True)])


@pytest.mark.slow
def test_a_killed_run_goes_on_with_the_same_weights(tmp_path: Path) -> None:
    check_resume(TINY, tmp_path)


def test_it_trains_any_family() -> None:
    check_runs(TINY)


@pytest.mark.slow
def test_tokens_and_exported_members(tmp_path: Path) -> None:
    torch.manual_seed(0)
    family = Family(Gpt(), (tokens(),), [Width(multiple=8), Depth()])
    rows = [(tokens(), None)] * 4
    last = train(family, rows, unused, steps=4, recipe=TINY)
    member = family.extract(BossNas.best(family.space, last.memory))
    pliant.export(member, tmp_path / "member.pt2", (tokens(),), time=False)
    loaded = torch.export.load(tmp_path / "member.pt2").module()
    assert torch.allclose(loaded(tokens()), member(tokens()), atol=1e-5)


# ---- rating ----------------------------------------------------------------------------------------------------------
def test_ratings_are_distances_to_the_centre_and_serve_a_search() -> None:
    family = two_layers()
    last = train(family, batches, unused, steps=6, recipe=TINY)
    x, best = batch(99)[0], BossNas.best(family.space, last.memory)
    rater = BossNas(population=99).rater(family, last.memory, [x], seed=3)
    with torch.random.fork_rng():
        torch.manual_seed(3)
        one, two = noisy(0.2)(x), noisy(0.2)(x)
    trained, smallest = state(family), family.space.smallest()
    paths = [[Config({**best, name: option}) for option in (4, 8, 12, 16)] for name in ("fc1.width", "fc2.width")]
    students = [family.extract({**best, "fc1.width": 4}), family.extract({**best, "fc2.width": 4})]
    family.model.load_state_dict(trained | last.memory["teacher"])
    wanted = []
    for at in (0, 1):
        heads, total, nets = last.memory["heads"][str(at)], 0.0, [family.extract(config) for config in paths[at]]
        for view, other in ((one, two), (two, one)):
            goals = [F.normalize(projected(heads["teacher"], layer(net, at, other))) for net in nets]
            guess = F.normalize(predicted(heads["student"], layer(students[at], at, view)))
            total += float((guess - F.normalize(torch.stack(goals).mean(0))).square().sum(1).mean())
        wanted.append(total)
    family.model.load_state_dict(trained)
    assert smallest == {"fc1.width": 4, "fc2.width": 4}
    assert rater.of_blocks(smallest) == pytest.approx(wanted, rel=1e-4)
    assert rater(rater.ready(smallest)) == rater(smallest) == pytest.approx(sum(wanted), rel=1e-4)
    rated = {config: rater(config) for config in family.space.enumerate()}
    study = pliant.search(rater, objectives=[pliant.Metric("rating", rater)], budget=len(rated))
    assert study.front[0].config == min(rated, key=rated.__getitem__)
    with pytest.raises(PliantError, match="only members that the rater gave itself"):
        rater(Mlp())


def test_the_network_is_as_it_was_after_training_a_block_and_rating() -> None:
    """Running the teacher and measuring leave weights, statistics and modes alone."""
    family = fresh("convnet")
    last = train(family, data_of("convnet"), unused, steps=2, recipe=TINY)
    before, modes = state(family), [module.training for module in family.model.modules()]
    rater = TINY.rater(family, last.memory, [images(6)])
    for config in family.space.enumerate():
        rater(config)
    assert same(before, state(family))
    assert modes == [module.training for module in family.model.modules()]


def layer(net: Any, at: int, x: Tensor) -> Tensor:
    first = net.fc1(x)
    return (net.fc2(torch.relu(first)) if at else first).detach()


def test_the_best_path_of_a_block_is_kept_for_the_next() -> None:
    family, seen = two_layers(), []
    last = train(family, batches, unused, steps=4, recipe=BossNas(paths=4, width=8),
                 on_step=lambda progress: seen.append((progress.memory["best"], progress.learnt)))  # fmt: skip
    first = Config.from_json(seen[1][0])  # settled in the second step, the last of the first block
    assert first["fc2.width"] == 16
    assert all(learnt[0]["fc1.width"] == first["fc1.width"] for _, learnt in seen[2:])
    assert BossNas.best(family.space, last.memory)["fc1.width"] == first["fc1.width"]
    assert set(last.losses) == set(last.learnt)  # what was rated did not learn


# ---- errors ----------------------------------------------------------------------------------------------------------
def test_networks_that_cannot_be_cut() -> None:
    with pytest.raises(PliantError, match="no residual blocks, and no two layers"):
        Blocks.of(Family(nn.Linear(4, 3), (vectors(2, 4),)), 4)
    with pytest.raises(UnknownNameError, match=r"blocks\.1"):
        Blocks.of(fresh("vit"), ("blocks.11",))
    family = Family(HardCoded(strict=True), (vectors(3, 4, 16),), [Width(multiple=8)])
    assert family.form == "graph"
    with pytest.raises(PliantError, match="graphs of operations"):
        Blocks.of(family, 4)


def test_batches_of_one_and_memories_of_others() -> None:
    family = two_layers()
    with pytest.raises(WrongShapeError, match="give larger batches"):
        train(family, [(torch.randn(1, 8), None)], unused, steps=1, recipe=TINY)
    last = train(family, batches, unused, steps=1, recipe=TINY)
    with pytest.raises(PliantError, match="heads of 1 of 2 blocks"):
        TINY.rater(family, last.memory, [vectors(4, 8)])
    last = train(family, batches, unused, steps=2, recipe=TINY)
    with pytest.raises(WrongShapeError, match="got none"):
        TINY.rater(family, last.memory, [])
    with pytest.raises(PliantError, match=r"Progress\.memory"):
        BossNas.best(family.space, {})


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"blocks": 0}, "blocks is a whole number, 1 or more"),
        ({"blocks": "stage1"}, "blocks is a number of blocks, or the paths of the submodules"),
        ({"paths": 0}, "paths is a whole number, 1 or more"),
        ({"population": 0}, "population is a whole number"),
        ({"momentum": 1.5}, "momentum is a share"),
        ({"width": 1}, "width is a whole number, 2 or more"),
        ({"lr": 0.0}, "lr is a finite number above 0"),
        ({"view": -1.0}, "view is a finite number above 0"),
    ],
)
def test_wrong_fields_are_refused(wrong: dict[str, Any], words: str) -> None:
    with pytest.raises(WrongShapeError, match=words):
        BossNas(**wrong)
