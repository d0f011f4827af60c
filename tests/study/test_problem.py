"""What the searcher is told beforehand: costs that can be counted, equal configs, impossible constraints."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from pliant.checks import WrongShapeError
from pliant.family import Family
from pliant.measure import Macs, Measurement, Metric, Objective, Params
from pliant.space import Config, Constraint, Problem
from pliant.study import search
from pliant.study.plan import Plan
from pliant.study.problem import excess
from pliant.technique import Proposer, Searcher
from pliant.techniques.elastic.depth import Depth
from pliant.techniques.elastic.width import Width
from pliant.techniques.search.random_search import RandomSearch
from tests.family.nets import ConvNet, images
from tests.study.toy import Toy, cost, error, widths


@dataclass(frozen=True)
class Sum(Objective):
    """The sum of the widths: counted and measured; ``lies`` are added to what is counted."""

    name: str = "sum"
    direction: Any = "min"
    lies: float = 0.0

    def measure(self, member: nn.Module) -> Measurement:
        return Measurement(sum(widths(member)), "")

    def count(self, family: Any) -> Callable[[np.ndarray], np.ndarray]:
        options = [np.array(choice.options, dtype=float) for choice in family.space.choices]
        return lambda rows: sum(each[rows[:, at]] for at, each in enumerate(options)) + self.lies


class Folded(Toy):
    """All options of the first choice give the same network."""

    asked = 0

    def canonical(self, config: Config) -> Config:
        self.asked += 1
        return Config({**config, "layer.0": 5})


def problem(family: Toy, *objectives: Objective, **options: Any) -> Problem:
    return Plan.make(family.space, objectives, **options).problem(family)


def rows(family: Toy, count: int = 30) -> tuple[list[Config], np.ndarray]:
    rng = Random(0)
    configs = [family.space.sample(rng) for _ in range(count)]
    return configs, family.space.indices(configs)


def test_counted_objectives_are_exact_and_minimised() -> None:
    toy = Toy()
    configs, indices = rows(toy)
    sizes = [sum(widths(toy.ready(config))) for config in configs]
    made = problem(toy, Metric("error", error), Sum(direction="max"), seed=7)
    assert (made.space, made.objectives, made.seed) == (toy.space, 2, 7)
    assert list(made.exact) == [1]
    assert made.exact[1](indices).tolist() == [-size for size in sizes]
    assert problem(toy, Sum(), Metric("error", error)).exact[0](indices).tolist() == sizes
    assert not made.statistics
    assert made.canonical is None
    assert made.violation is None


def test_counted_extras_are_statistics() -> None:
    toy = Toy()
    configs, indices = rows(toy)
    made = problem(toy, Metric("error", error), extras=[Sum(), Metric("cost", cost)])
    assert not made.exact
    assert list(made.statistics) == ["sum"]
    assert made.statistics["sum"](indices).tolist() == [sum(widths(toy.ready(config))) for config in configs]


def test_free_objectives_are_statistics_where_they_can_be_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Params, "count", lambda self, family: Sum().count(family))
    assert list(problem(Toy(), Metric("error", error)).statistics) == ["params"]
    made = problem(Toy(), Metric("error", error), constraints=["params <= 12"])
    assert made.violation is not None
    assert list(problem(Toy(), Metric("error", error), Params()).exact) == [1]


def test_constraints_on_counted_values_are_violation() -> None:
    toy = Toy()
    configs, indices = rows(toy)
    limits = ["sum <= 16", "sum > 10", "cost <= 3"]
    made = problem(toy, Metric("error", error), extras=[Sum(), Metric("cost", cost)], constraints=limits)
    assert made.violation is not None
    parsed = [Constraint.parse(text) for text in limits[:2]]
    wanted = [sum(each.violation({"sum": sum(widths(toy.ready(c)))}) for each in parsed) for c in configs]
    assert made.violation(indices).tolist() == wanted
    assert any(wanted)
    assert not all(wanted)


@pytest.mark.parametrize("text", ["x <= 3", "x >= 0", "x == 2", "x < 0", "x > 2", "x <= inf", "x >= inf"])
def test_excess_is_the_violation_of_each(text: str) -> None:
    constraint = Constraint.parse(text)
    values = np.array([-2.0, 0, 1, 2, 3, 1e9, np.inf, -np.inf, np.nan])
    assert excess(constraint, values).tolist() == [constraint.violation({"x": value}) for value in values]


@pytest.mark.slow
def test_a_constraint_that_nothing_satisfies_is_said_before_any_measurement() -> None:
    toy = Toy()
    said = r"none of the 15625 configs keeps 'sum <= 5.0' and 'sum >= 2.0': sum goes from 6 to 30"
    with pytest.raises(WrongShapeError, match=said):
        search(toy, [Metric("error", error), Sum()], 10, constraints=["sum <= 5", "sum >= 2"])
    assert toy.built == []


def test_a_constraint_that_nothing_measured_satisfies_is_noted() -> None:
    study = search(Toy(), [Metric("error", error), Metric("cost", cost)], 12, constraints=["cost <= 1", "error >= -99"])
    assert not study.front
    near = min(study.trials, key=lambda trial: trial.violation)
    wanted = f"none of 12 measured configs keeps the constraints; the nearest is trial {near.number}: cost is "
    assert wanted in study.note
    assert "where 'cost <= 1.0'. Loosen" in study.note
    assert "error" not in study.note


def test_equal_configs_are_mapped_once_each() -> None:
    family = Folded()
    configs, indices = rows(family)
    made = problem(family, Metric("error", error))
    assert made.canonical is not None
    assert made.same(configs) == [Config({**config, "layer.0": 5}) for config in configs]
    asked = family.asked
    assert (made.canonical(indices)[:, 0] == 4).all()
    assert family.asked == asked == len(set(configs))
    assert made.canonical(indices[:0]).shape == (0, 6)


def test_what_a_family_knows_of_many_configs_at_once() -> None:
    torch.manual_seed(0)
    choices: list[Any] = [Width(ratios=(0.5, 1), multiple=4), Depth(least=0)]
    family = Family(ConvNet(blocks=3), (images(),), choices)
    macs = Macs((images()[:1],))
    made = Plan.make(family.space, [Metric("error", error), macs], constraints=["params <= 3000"]).problem(family)
    rng = Random(1)
    configs = [family.space.sample(rng) for _ in range(20)]
    indices = family.space.indices(configs)
    assert made.same(configs) == [family.canonical(config) for config in configs]
    assert made.active is not None
    assert made.active(indices).shape == indices.shape
    members = [family.ready(config) for config in configs]
    assert made.exact[1](indices).tolist() == [macs.measure(member).value for member in members]
    params = [Params().measure(member).value for member in members]
    assert made.statistics["params"](indices).tolist() == params
    assert made.violation is not None
    assert made.violation(indices).tolist() == pytest.approx([max(0.0, each / 3000 - 1) for each in params])


def test_counts_guide_and_measurements_are_kept() -> None:
    """What is stored, and told, was measured: a count that errs changes only what is asked for."""
    seen: list[Problem] = []

    class Watching(Searcher):
        def start(self, problem: Problem) -> Proposer:
            seen.append(problem)
            from pliant.techniques.search.random_search import RandomSearch

            return RandomSearch().start(problem)

    toy = Toy()
    study = search(toy, [Metric("error", error), Sum(lies=1000.0)], 10, searcher=Watching())
    assert all(trial.values["sum"] == sum(widths(toy.ready(trial.config))) for trial in study.trials)
    assert seen[0].exact[1](toy.space.indices([toy.space.smallest()]))[0] == 1006


def test_a_searcher_is_an_instance() -> None:
    from pliant.techniques.search.random_search import RandomSearch

    with pytest.raises(WrongShapeError, match=r"put \(\) behind it"):
        search(Toy(), [Metric("error", error)], 10, searcher=RandomSearch)  # type: ignore[arg-type]
    with pytest.raises(WrongShapeError, match="kind .search."):
        search(Toy(), [Metric("error", error)], 10, searcher="random")  # type: ignore[arg-type]


ASKED: list[tuple[str, dict[str, Any]]] = [
    (r"objectives is a list, got .*write objectives=\[Metric\(…\)\]", {"objectives": Metric("error", error)}),
    (r"write constraints=\['cost <= 9'\]", {"constraints": "cost <= 9"}),
    (r"extras is a list", {"extras": Metric("cost", cost)}),
    (r"put \(\) behind it", {"objectives": [Params]}),
    (r"is a word such as 'error', got ''", {"objectives": [Metric("", error)]}),
    (r"'layer.0' is the name of an objective and of a choice", {"objectives": [Metric("layer.0", error)]}),
    (r"budget is a whole number, got 2.5", {"budget": 2.5}),
    (r"budget is a whole number, got '3'", {"budget": "3"}),
    (r"seed is a whole number, got None", {"seed": None}),
    (r"over a family, got Linear", {"family": nn.Linear(2, 2)}),
]


@pytest.mark.parametrize(("said", "wrong"), ASKED, ids=[said[:20] for said, _ in ASKED])
def test_arguments_that_are_not_what_they_should_be(said: str, wrong: dict[str, Any]) -> None:
    asked: dict[str, Any] = {"family": Toy(), "objectives": [Metric("error", error)], "budget": 3, **wrong}
    with pytest.raises(WrongShapeError, match=said):
        search(**asked)


def test_arguments_that_will_do(tmp_path: Path) -> None:
    asked: Any = {"constraints": (Constraint.parse("error <= 100"),), "searcher": RandomSearch()}
    numpy: Any = {"budget": np.int64(3), "seed": np.int64(2)}
    first = search(Toy(), (Metric("error", error),), storage=tmp_path / "s.db", **numpy, **asked)
    again = search(Toy(), [Metric("error", error)], 3, seed=2, **{**asked, "constraints": ["error <= 100"]})
    assert [trial.config for trial in first.trials] == [trial.config for trial in again.trials]
    assert all(trial.state == "complete" for trial in first.trials)
