"""Members that fit a memory learn, others never; what is found under the limit runs inside it."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from scipy.stats import chisquare

from pliant.checks import WrongShapeError
from pliant.family import Family
from pliant.family.planned import planned_bytes
from pliant.graph.schedule import plan_memory, record, simulate
from pliant.measure import Metric, PlannedMemory
from pliant.space import Config
from pliant.study import search
from pliant.tasks.digits_vit import DigitsViT
from pliant.techniques.elastic.depth import Depth
from pliant.techniques.elastic.low_rank import LowRank
from pliant.techniques.elastic.width import Width
from pliant.techniques.search.regularized_evolution import RegularizedEvolution
from pliant.techniques.train.mcuformer import Mcuformer
from pliant.training import TrainingStep, train
from tests.family.nets import ViT, vectors
from tests.techniques.train.turns import Notes, check_gradient, check_resume, fresh, spread

X, Y = vectors(3, 4, 6), torch.tensor([0, 4, 2])


def family_of_ranks() -> Family:
    torch.manual_seed(0)
    choices = [Width(ratios=(0.5, 1.0), kinds=("width",)), LowRank(ratios=(0.25,), multiple=4)]
    return Family(ViT(depth=1), (X,), choices)


def turn_of(family: Family, step: int = 0) -> Any:
    turn: Any = Notes(family.space, step=step)
    turn.family = family
    return turn


def middle(family: Family, weights: bool = True) -> tuple[int, list[Config]]:
    """Return a limit that a third of the members keeps, and these."""
    sizes = {config: planned_bytes(family, config, weights) for config in family.space.enumerate()}
    limit = sorted(sizes.values())[len(sizes) // 3]
    return limit, [config for config, size in sizes.items() if size <= limit]


@pytest.mark.slow
def test_those_that_fit_are_equally_likely_and_others_never_learn() -> None:
    torch.manual_seed(0)
    family = Family(ViT(depth=1), (X,), [Width(ratios=(0.5, 1.0)), LowRank(ratios=(0.25,), multiple=4, per="network")])
    limit, fitting = middle(family)
    assert 1 < len(fitting) < family.space.size
    recipe, seen = Mcuformer(memory=limit, weights=True, tries=30), Counter[Config]()
    for step in range(60 * len(fitting)):
        turn = turn_of(family, step)
        recipe.step(turn)
        ((config, how),) = turn.calls
        assert how == {}
        seen[config] += 1
    assert set(seen) == set(fitting)
    assert chisquare(list(seen.values())).pvalue > 0.01


@pytest.mark.slow
def test_what_does_not_fit_is_made_smaller_until_it_does() -> None:
    family = family_of_ranks()
    least = family.space.smallest()
    tight = Mcuformer(memory=planned_bytes(family, least, weights=True), weights=True, tries=1)
    drawn = {tight.draw(turn_of(family, step)) for step in range(4)}
    assert all(planned_bytes(family, config, weights=True) <= tight.memory for config in drawn)
    largest = family.space.largest()
    limit = (tight.memory + planned_bytes(family, largest, weights=True)) // 2
    recipe = Mcuformer(memory=limit, weights=True)
    for step in range(3):
        made = recipe.repaired(turn_of(family, step), largest)
        assert planned_bytes(family, made, weights=True) <= limit
        lowered = [name for name in made if made[name] != largest[name]]
        assert all(made[name] == least[name] for name in lowered)
        assert lowered


def test_a_memory_that_even_the_smallest_member_misses_is_named() -> None:
    family = family_of_ranks()
    needed = planned_bytes(family, family.space.smallest(), weights=True)
    with pytest.raises(WrongShapeError, match=f"memory is {needed - 1} bytes.*with its weights needs {needed} for one"):
        Mcuformer(memory=needed - 1, weights=True).step(turn_of(family))


def test_all_members_fit_the_microcontroller_of_the_paper() -> None:
    family = fresh("vit")
    turn = TrainingStep(family, (X, Y), F.cross_entropy, step=1)
    Mcuformer().step(turn)
    (config,) = turn.learnt
    net = family.extract(config)
    F.cross_entropy(net(X), Y).backward()
    check_gradient(family, [spread(family, config, net)])


def test_the_member_learns_from_the_runs_teacher() -> None:
    turn = turn_of(fresh("vit"))
    turn._taught = "the teacher's"
    Mcuformer(lead=0.7, temperature=2.0).step(turn)
    assert turn.calls[0][1] == {"teacher": "the teacher's", "share": 0.7, "temperature": 2.0}


def test_a_killed_run_goes_on_with_the_same_weights(tmp_path: Path) -> None:
    check_resume(Mcuformer(memory=planned_bytes(fresh("vit"), fresh("vit").space.largest()) - 1), tmp_path)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"memory": 0}, "memory is a whole number, 1 or more; got 0"),
        ({"tries": 0}, "tries is a whole number"),
        ({"lead": 1.5}, "lead is a share"),
        ({"temperature": 0}, "temperature is a finite number"),
    ],
)
def test_wrong_fields_are_refused(wrong: dict[str, Any], words: str) -> None:
    with pytest.raises(WrongShapeError, match=words):
        Mcuformer(**wrong)


@pytest.mark.slow
def test_digits_inside_seven_kilobytes(tmp_path: Path) -> None:
    """Train, search, extract, run inside the buffer and export, on real data: the whole way, under one limit."""
    from sklearn.datasets import load_digits

    import pliant

    bunch = load_digits()
    x, y = torch.tensor(bunch.images, dtype=torch.float32)[:, None] / 16, torch.tensor(bunch.target)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    x, y = x[order], y[order]
    torch.manual_seed(0)
    net = DigitsViT(dim=32, depth=2, heads=4, head_dim=8, mlp_dim=64)
    choices = [Width(ratios=(0.5, 1.0), uniform=True), LowRank(ratios=(0.5,), multiple=4, per="network"), Depth()]
    family = Family(net, (x[:4],), choices)
    limit = 7000
    assert planned_bytes(family, family.space.smallest()) <= limit < planned_bytes(family, family.space.largest())
    batches = [(x[i : i + 64], y[i : i + 64]) for i in range(0, 1280, 64)] * 8
    learnt: set[Config] = set()
    optimizer = torch.optim.AdamW(family.parameters(), lr=4e-3, fused=True)
    train(
        family, batches, F.cross_entropy, steps=160, recipe=Mcuformer(memory=limit), optimizer=optimizer,
        on_step=lambda progress: learnt.update(progress.learnt),
    )  # fmt: skip
    assert all(planned_bytes(family, config) <= limit for config in learnt)
    error = Metric("error", lambda net: float((net(x[1280:]).argmax(1) != y[1280:]).float().mean()))
    study = search(
        family, [error], 4, extras=[PlannedMemory((x[:1],))], constraints=[f"planned_memory <= {limit}"],
        searcher=RegularizedEvolution(population=3, sample=2),
    )  # fmt: skip
    assert all(trial.measurements["planned_memory"].value <= limit for trial in study.trials)
    best = family.extract(study.front[0].config)
    plan = plan_memory(record(best, (x[:1],)))
    found, peak = simulate(plan)
    assert peak == plan.peak <= limit
    assert torch.allclose(found, best(x[:1]), atol=1e-5)
    assert study.front[0].values["error"] < 0.5
    made = pliant.export(best, tmp_path / "net.pt2", (x[:2],))
    assert torch.allclose(torch.export.load(made.path).module()(x[:2]), best(x[:2]), atol=1e-5)
