"""What a run keeps beside the weights: frozen members, a recipe's memory, teachers, and imitations that learn too."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pliant.checks import PliantError, UnknownNameError, WrongShapeError
from pliant.family import Family, Imitation, View, distillation_loss
from pliant.family.counts import macs_shares
from pliant.technique import Distiller, Recipe
from pliant.techniques.elastic.depth import Depth
from pliant.techniques.elastic.width import Width
from pliant.training import Progress, Seen, TrainingStep, train
from pliant.training.checkpoint import load_checkpoint, save_checkpoint
from pliant.training.course import Course
from tests.family.nets import ViT, vectors
from tests.training.toy import Mlp, batch, batches, convnet, loss, mlp, pictures, same, state


class Stopped(Exception):  # noqa: N818
    """Stands for a kill."""


def stop(progress: Progress) -> None:
    if progress.step == 5:
        raise Stopped


class Remembers(Recipe):
    """The smallest member learns from a frozen copy of the largest, and the recipe counts and keeps a tensor."""

    def step(self, turn: Any) -> None:
        largest = turn.space.largest()
        if turn.step == 2:
            turn.keep("old", largest)
        turn.memory["count"] = turn.memory.get("count", 0) + 1
        turn.memory.setdefault("nested", {})["weights"] = torch.full((2,), float(turn.memory["count"]))
        turn.learn(largest, weight=1 / turn.memory["count"])
        if turn.kept("old"):
            turn.update()
            turn.rate = 0.5
            turn.learn(turn.space.smallest(), teacher=turn.recall("old"), share=0.5)


@pytest.mark.slow
@pytest.mark.parametrize(("make", "data"), [(mlp, batches), (convnet, pictures)])
def test_what_a_recipe_remembers_survives_a_kill(make: Any, data: Any, tmp_path: Path) -> None:
    whole = make()
    last = train(whole, data, loss, steps=8, recipe=Remembers(), folder=tmp_path / "a", save_every=2)
    parts = make()
    with pytest.raises(Stopped):
        train(parts, data, loss, steps=8, recipe=Remembers(), folder=tmp_path / "b", save_every=2, on_step=stop)
    parts = make(seed=4)
    again = train(parts, data, loss, steps=8, recipe=Remembers(), folder=tmp_path / "b", save_every=2)
    assert same(state(parts), state(whole))
    assert again == last


def test_what_is_kept_stays_as_it_was() -> None:
    family = mlp(dropout=0.0)
    x = batch(0)[0]
    turn = TrainingStep(family, batch(0), loss)
    config = family.space.smallest()
    before = family.extract(config)(x)
    turn.keep("old", config)
    with torch.no_grad():
        for parameter in family.parameters():
            parameter.add_(1.0)
    assert torch.equal(turn.recall("old").outputs, before)
    assert not turn.recall("old").outputs.requires_grad
    assert turn.recall("old") is turn.recall("old")
    turn.keep("old", config)
    assert not torch.equal(turn.recall("old").outputs, before)
    with pytest.raises(UnknownNameError, match="'old'"):
        turn.recall("odl")


def test_seeing_learns_nothing() -> None:
    family = mlp(dropout=0.0)
    turn = TrainingStep(family, batch(0), loss)
    seen = turn.see(family.space.smallest())
    assert torch.equal(seen.outputs, family.member(family.space.smallest())(batch(0)[0]))
    assert all(p.grad is None or not p.grad.any() for p in family.parameters())
    assert turn.watched == [family.space.smallest()]
    assert not turn.learnt


def test_outputs_of_parts_are_those_of_the_whole_batch() -> None:
    views = tuple(View({"x": torch.full((2, 3), float(k)), "n": 7}) for k in range(2))
    found = Seen(views).outputs
    assert found["x"].shape == (4, 3)
    assert found["n"] == 7
    family = mlp()
    with pytest.raises(WrongShapeError, match="2 parts of a batch, this one has 1"):
        TrainingStep(family, batch(0), loss).learn(family.space.largest(), teacher=Seen(views))


def test_unregularised_members_have_no_dropout_but_batch_statistics() -> None:
    family = mlp(dropout=0.5)
    family.model.train()
    turn, config = TrainingStep(family, batch(0), loss), family.space.largest()
    plain = family.extract(config)(batch(0)[0])
    assert torch.allclose(turn.learn(config, regularise=False).outputs, plain, atol=1e-6)
    assert not torch.allclose(turn.learn(config).outputs, plain, atol=1e-3)
    assert all(module.training for module in family.model.modules())
    pictured = convnet()
    pictured.model.train()
    turn = TrainingStep(pictured, batch(0, (1, 8, 8), 5), loss)
    running = [b.clone() for n, b in pictured.model.named_buffers() if n.endswith("running_mean")]
    turn.learn(pictured.space.largest(), regularise=False)
    after = [b for n, b in pictured.model.named_buffers() if n.endswith("running_mean")]
    assert running
    assert not any(torch.equal(a, b) for a, b in zip(running, after, strict=True))


def test_the_rate_of_a_step_scales_what_the_optimizer_does() -> None:
    class Slowly(Recipe):
        def step(self, turn: Any) -> None:
            turn.rate = 0.25
            turn.learn(turn.space.largest())

    class Plainly(Recipe):
        def step(self, turn: Any) -> None:
            turn.learn(turn.space.largest())

    moved = []
    for recipe in (Slowly(), Plainly()):
        family = mlp(dropout=0.0)
        family.prepare()
        before = state(family)
        optimizer = torch.optim.SGD(family.parameters(), lr=1.0)
        last = train(family, batches, loss, steps=1, recipe=recipe, optimizer=optimizer, clip=None, warmup=0)
        assert last.lr == 1.0
        moved.append({name: value - before[name] for name, value in state(family).items()})
    assert all(torch.allclose(4 * moved[0][name], value, atol=1e-6) for name, value in moved[1].items())


def test_a_schedule_replaces_the_recipes() -> None:
    rates: list[float] = []
    family = mlp()
    train(family, batches, loss, steps=4, warmup=0.25, schedule=lambda done: 1 - done / 2,
          on_step=lambda p: rates.append(p.lr))  # fmt: skip
    assert rates == pytest.approx([1e-3, 1e-3, 1e-3 * (1 - 1 / 6), 1e-3 * (1 - 1 / 3)])


class FromTeacher(Recipe):
    """Ordinary distillation: the largest member learns from the run's teacher."""

    def step(self, turn: Any) -> None:
        turn.learn(turn.space.largest(), teacher=turn.taught(), share=1.0, temperature=2.0)


def test_the_runs_teacher_is_seen_in_evaluation_mode_and_unchanged() -> None:
    torch.manual_seed(1)
    teacher = Mlp(dropout=0.5)
    weights = {name: value.clone() for name, value in teacher.state_dict().items()}
    family, (x, y) = mlp(dropout=0.0), batch(0)
    student = family.model
    want = distillation_loss(student(x), teacher.eval()(x), 2.0)
    teacher.train()
    last = train(family, [(x, y)], loss, steps=1, recipe=FromTeacher(), teacher=teacher)
    assert last.loss == pytest.approx(want.item(), rel=1e-5)
    assert teacher.training
    assert same(weights, teacher.state_dict())
    assert all(p.grad is None for p in teacher.parameters())
    assert TrainingStep(family, (x, y), loss).taught() is None


class Projected(Imitation):
    """Compares features of the first layer through a learned projection."""

    def __init__(self, sites: tuple[str, ...], width: int) -> None:
        super().__init__()
        self.sites = self.teacher_sites = sites
        self.head = nn.Linear(width, width)
        self.missing = 0

    def forward(self, student: View, teacher: View, targets: Any, temperature: float) -> Tensor:
        total = super().forward(student, teacher, targets, temperature)
        for site in self.sites:
            if site in student.features:
                total = total + (self.head(student.features[site]) - teacher.features[site]).square().mean()
            else:
                self.missing += 1
        return total


class Features(Distiller):
    """Makes :class:`Projected`."""

    def __init__(self, *sites: str) -> None:
        self.sites = sites
        self.made: list[Projected] = []

    def start(self, student: Any, teacher: Any, args: Any, kwargs: Any) -> Any:
        assert not student.training
        assert not torch.is_grad_enabled()
        student(*args, **kwargs)
        self.made.append(Projected(self.sites, 16))
        return self.made[-1]


def test_an_imitation_of_the_teachers_features_learns_survives_a_kill_and_leaves(tmp_path: Path) -> None:
    def run(family: Family, folder: Path, **more: Any) -> Features:
        torch.manual_seed(5)
        distiller = Features("fc1")
        optimizer = torch.optim.AdamW(family.parameters(), lr=0.01)
        train(family, batches, loss, steps=8, recipe=FromTeacher(), teacher=Mlp(), distiller=distiller,
              optimizer=optimizer, folder=folder, save_every=2, **more)  # fmt: skip
        assert len(optimizer.param_groups) == 1
        assert len(optimizer.state) == len(list(family.parameters()))
        return distiller

    whole = mlp()
    first = run(whole, tmp_path / "a").made[0].head.weight
    torch.manual_seed(5)
    assert not torch.equal(first, nn.Linear(16, 16).weight)
    parts = mlp()
    with pytest.raises(Stopped):
        run(parts, tmp_path / "b", on_step=stop)
    parts = mlp(seed=9)
    again = run(parts, tmp_path / "b").made[0].head.weight
    assert torch.equal(first, again)
    assert same(state(parts), state(whole))


class InPlace(Recipe):
    def step(self, turn: Any) -> None:
        teacher = turn.learn(turn.space.largest(), teacher=turn.taught())
        turn.learn(turn.space.smallest(), teacher=teacher)


def test_members_imitate_the_largest_one_where_there_is_no_teacher_and_lack_what_they_leave_out() -> None:
    x, y = vectors(3, 4, 6), torch.tensor([0, 4, 2])
    torch.manual_seed(0)
    net = ViT()
    paths = [name for name, module in net.named_modules() if isinstance(module, nn.LayerNorm)]
    family = Family(net, (x,), [Width(multiple=4), Depth()])
    width = net.get_submodule(paths[0]).normalized_shape[0]  # type: ignore[index]

    class Made(Features):
        def start(self, student: Any, teacher: Any, args: Any, kwargs: Any) -> Any:
            assert teacher is None
            self.made.append(Projected(self.sites, int(width)))
            return self.made[-1]

    distiller = Made(*paths)
    train(family, [(x, y)] * 2, loss, steps=2, recipe=InPlace(), distiller=distiller)
    assert distiller.made[0].missing > 0


def test_between_members_outputs_are_compared_where_the_imitation_is_of_a_teacher() -> None:
    family, (x, y) = mlp(dropout=0.0), batch(0)
    course = Course(family, loss, teacher=Mlp(0.0), imitation=Projected(("fc1",), 16))
    turn = TrainingStep(family, (x, y), loss, course=course)
    small = family.space.smallest()
    seen = turn.see(family.space.largest())
    want = distillation_loss(family.member(small)(x), family.model(x))
    turn.learn(small, teacher=seen)
    assert turn.losses[small] == pytest.approx(want.item(), rel=1e-5)


def test_wrong_sites_and_distillers() -> None:
    family = mlp()
    with pytest.raises(UnknownNameError, match="fc1"):
        train(family, batches, loss, steps=1, recipe=FromTeacher(), teacher=nn.Sequential(Mlp()),
              distiller=Features("fcl"))  # fmt: skip
    with pytest.raises(PliantError, match="distiller is an instance of a technique that says"):
        train(family, batches, loss, steps=1, distiller=Features)  # type: ignore[arg-type]


def test_members_that_are_graphs_have_no_features() -> None:
    family = mlp()
    family.form, family.why_graph = "graph", "its class insists on its sizes"
    with pytest.raises(PliantError, match=r"Features looks at features .* insists on its sizes"):
        train(family, batches, loss, steps=1, recipe=InPlace(), distiller=Features("fc1"))


def test_a_teacher_gets_its_mode_back() -> None:
    teacher = Mlp().train()
    train(mlp(), batches, loss, steps=1, recipe=FromTeacher(), teacher=teacher, distiller=Features("fc1"))
    assert all(module.training for module in teacher.modules())


def test_nested_values_survive_a_checkpoint_and_others_are_refused(tmp_path: Path) -> None:
    net = nn.Linear(2, 2)
    optimizer = torch.optim.AdamW(net.parameters())
    held = {"a": {"b": torch.arange(3), "c": [1, None, "x"], "d": {}}, "e": 0.5}
    found = load_checkpoint(save_checkpoint(tmp_path, 1, net, optimizer, {}, held), net, optimizer)["held"]
    assert torch.equal(found["a"].pop("b"), held["a"].pop("b"))  # type: ignore[attr-defined]
    assert found == held
    with pytest.raises(PliantError, match=r"held/a/b is \{1\}"):
        save_checkpoint(tmp_path, 2, net, optimizer, {}, {"a": {"b": {1}}})


def test_shares_of_macs() -> None:
    family = mlp()
    share = macs_shares(family)
    assert share(family.space.largest()) == 1
    assert share(family.space.smallest()) == pytest.approx((8 * 4 + 4 * 4 + 4 * 3) / (8 * 16 + 16 * 16 + 16 * 3))
