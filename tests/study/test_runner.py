"""The loop: what is measured, what is remembered, what is told."""

from __future__ import annotations

import logging
import math
import random
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from pliant.checks import MissingExtraError, PliantError, UnknownNameError, WrongShapeError
from pliant.measure import Metric
from pliant.space import Choice, Config, Problem, Space
from pliant.study import Study, Trial, search
from pliant.technique import Proposer, Searcher
from pliant.techniques.search.nsga2 import Nsga2
from pliant.techniques.search.random_search import RandomSearch
from tests.study.toy import Toy, cost, error, objectives, widths

SMALL = Nsga2(population=8)
LIMIT = ["cost <= 70"]


class Killed(BaseException):
    """Stands for a signal."""


def outcome(study: Study) -> list[tuple[Any, ...]]:
    return [(t.number, t.config, dict(t.values), t.state, t.error, t.violation) for t in study.trials]


@pytest.mark.slow
def test_every_config_is_measured_once() -> None:
    toy = Toy()
    study = search(toy, objectives(), 120)
    assert len(study.trials) == 120 == len(set(toy.built))
    assert toy.built == [trial.config for trial in study.trials]
    assert study.directions == {"error": "min", "cost": "min"}
    assert study.space == toy.space


def test_same_seed_same_study_whatever_the_global_generators() -> None:
    def noisy(member: nn.Module) -> float:
        return error(member) + random.random() + np.random.rand() + torch.rand(()).item()  # noqa: NPY002

    first = search(Toy(), objectives(noisy), 50, seed=3)
    torch.manual_seed(99)
    state = torch.get_rng_state()
    second = search(Toy(), objectives(noisy), 50, seed=3)
    assert outcome(first) == outcome(second)
    assert torch.equal(torch.get_rng_state(), state)
    assert outcome(first) != outcome(search(Toy(), objectives(noisy), 50, seed=4))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kill_at", "hard"),
    [
        (8, False),
        (20, True),
        *(pytest.param(*case, marks=pytest.mark.slow) for case in product([0, 1, 7, 24], [False, True])),
    ],
)
def test_a_killed_study_goes_on_as_if_nothing_had_happened(
    kill_at: int, hard: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = search(Toy(), objectives(), 25, searcher=SMALL, constraints=LIMIT)
    count = 0

    def dies(member: nn.Module) -> float:
        nonlocal count
        count += 1
        if count == kill_at + 1:
            raise Killed
        return error(member)

    if hard:  # a kill -9 writes no last words
        from pliant.study.store import Store

        monkeypatch.setattr(Store, "again", lambda *_: None)
    with pytest.raises(Killed):
        search(Toy(), objectives(dies), 25, searcher=SMALL, constraints=LIMIT, storage=tmp_path / "s.db")
    monkeypatch.undo()
    toy = Toy()
    resumed = search(toy, objectives(), 25, searcher=SMALL, constraints=LIMIT, storage=tmp_path / "s.db")
    assert outcome(resumed) == outcome(whole)
    assert len(toy.built) == 25 - kill_at
    assert resumed.optuna.get_trials()[kill_at].user_attrs["again"] is True
    assert outcome(Study.load(tmp_path / "s.db")) == outcome(whole)


@pytest.mark.slow
def test_a_bigger_budget_goes_on_and_a_smaller_one_measures_nothing(tmp_path: Path) -> None:
    search(Toy(), objectives(), 15, storage=tmp_path / "s.db")
    more = search(Toy(), objectives(), 25, storage=tmp_path / "s.db")
    assert outcome(more) == outcome(search(Toy(), objectives(), 25))
    toy = Toy()
    assert len(search(toy, objectives(), 10, storage=tmp_path / "s.db").trials) == 25
    assert toy.built == []


def test_an_exhausted_space_ends_the_study() -> None:
    study = search(Toy(choices=2, options=3), objectives(), 100)
    assert len(study.trials) == 9
    assert "all its 9 configs" in study.note
    assert search(Toy(), objectives(), 5).note == ""


class Stubborn(Searcher):
    """Proposes two configs for ever, and keeps what it is told."""

    def __init__(self) -> None:
        self.told: list[tuple[Config, list[float], float]] = []

    def start(self, problem: Problem) -> Proposer:
        outer, asked = self, [problem.space.smallest(), problem.space.largest()]

        class Running:
            count = 0

            def ask(self, n: int = 1) -> list[Config]:
                self.count += 1
                return [asked[self.count % 2]]

            def tell(self, config: Config, values: Sequence[float], violation: float = 0.0) -> None:
                outer.told.append((config, list(values), violation))

        return Running()


def test_known_configs_are_told_not_measured() -> None:
    toy, searcher = Toy(), Stubborn()
    study = search(toy, [Metric("gain", cost, "max")], 10, searcher=searcher, constraints=["gain <= 10"])
    assert len(study.trials) == 2 == len(toy.built)
    assert "Stubborn" in study.note
    largest, smallest = study.trials
    assert searcher.told[0] == (largest.config, [-largest.values["gain"]], largest.violation)
    assert searcher.told[1] == (smallest.config, [-smallest.values["gain"]], 0)
    assert searcher.told[2] == searcher.told[0]
    assert largest.violation == pytest.approx((largest.values["gain"] - 10) / 10)


def test_a_searcher_that_changed_is_told_what_is_stored(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    class Other(Stubborn):
        pass

    Other.__name__ = "Stubborn"
    first = search(Toy(), objectives(), 2, searcher=Stubborn(), storage=tmp_path / "s.db")

    class Changed(Stubborn):
        def start(self, problem: Problem) -> Proposer:
            running = super().start(problem)
            third = problem.space.sample(random.Random(0))
            running.ask = lambda n=1: [third]  # type: ignore[method-assign]
            return running

    Changed.__name__ = "Stubborn"
    searcher = Changed()
    with caplog.at_level(logging.WARNING, "pliant.study"):
        study = search(Toy(), objectives(), 3, searcher=searcher, storage=tmp_path / "s.db")
    assert "another version" in caplog.text
    assert len(study.trials) == 3
    assert [config for config, _, _ in searcher.told[:2]] == [trial.config for trial in first.trials]


def test_failures_and_nan_are_recorded_and_passed_over() -> None:
    def fragile(member: nn.Module) -> float:
        size = sum(widths(member))
        if size % 3 == 0:
            raise ValueError(f"cannot do {size}")
        return math.nan if size % 7 == 0 else error(member)

    seen: list[Trial] = []
    study = search(Toy(), objectives(fragile), 80, max_failures=50, on_trial=seen.append)
    failed = [trial for trial in study.trials if trial.state == "failed"]
    assert any("ValueError: cannot do" in trial.error and "test_runner.py, line" in trial.error for trial in failed)
    assert any("'error' is nan" in trial.error for trial in failed)
    assert all(not trial.values and trial.violation == math.inf and not trial.feasible for trial in failed)
    assert [t.config for t in seen] == [t.config for t in study.trials]
    assert [t.violation for t in seen] == [t.violation for t in study.trials]
    assert study.front
    assert all(trial.state == "complete" for trial in study.front)


def test_what_is_no_measurement_is_a_failure_that_says_so() -> None:
    class Silent(Metric):
        def measure(self, member: nn.Module) -> Any:
            return None if sum(widths(member)) % 2 else super().measure(member)

    study = search(Toy(), [Silent("error", error), Metric("cost", cost)], 30, max_failures=30)
    failed = [trial for trial in study.trials if trial.state == "failed"]
    assert failed
    assert all("objective 'error' returned None from measure(), expected a pliant.Meas" in t.error for t in failed)
    empty = search(Toy(), [Metric("error", lambda member: None)], 3, max_failures=9)
    assert all("expected one number from its function, got NoneType" in trial.error for trial in empty.trials)


@pytest.mark.slow
def test_failures_in_a_row_stop_it_and_are_measured_again_once_mended(tmp_path: Path) -> None:
    broken = True
    count = 0

    def evaluation(member: nn.Module) -> float:
        nonlocal count
        count += 1
        if broken and count > 12:
            raise RuntimeError("no such folder")
        return error(member)

    with pytest.raises(PliantError, match=r"5 trials in a row.*no such folder.*12 trials are kept"):
        search(Toy(), objectives(evaluation), 20, storage=tmp_path / "s.db")
    assert len(Study.load(tmp_path / "s.db").trials) == 12
    broken = False
    mended = search(Toy(), objectives(evaluation), 20, storage=tmp_path / "s.db")
    assert outcome(mended) == outcome(search(Toy(), objectives(), 20))


def test_a_missing_extra_stops_it_at_once(tmp_path: Path) -> None:
    def needs(member: nn.Module) -> float:
        raise MissingExtraError("pip install 'pliant[onnx]'")

    with pytest.raises(MissingExtraError, match="pip install"):
        search(Toy(), objectives(needs), 40, storage=tmp_path / "s.db")
    assert Study.load(tmp_path / "s.db").trials == []


def test_constraints_on_objectives_extras_and_what_is_free() -> None:
    extra = Metric("sum", lambda member: sum(widths(member)))
    study = search(Toy(), objectives(), 60, constraints=["cost <= 60", "sum >= 12", "params <= 10"], extras=[extra])
    for trial in study.trials:
        size = trial.measurements["sum"].value
        expected = max(0, trial.values["cost"] / 60 - 1) + max(0, 1 - size / 12)
        assert trial.violation == pytest.approx(expected)
        assert set(trial.values) == {"error", "cost"}
        assert set(trial.measurements) == {"error", "cost", "sum", "params"}
    assert study.front
    assert all(trial.feasible for trial in study.front)


def test_bad_arguments_come_before_any_measurement() -> None:
    toy = Toy()
    with pytest.raises(UnknownNameError, match="did you mean 'cost'"):
        search(toy, objectives(), 5, constraints=["cots <= 3"])
    with pytest.raises(WrongShapeError, match="at least one objective"):
        search(toy, [], 5)
    with pytest.raises(WrongShapeError, match="two objectives are named 'cost'"):
        search(toy, [*objectives(), Metric("cost", cost)], 5)
    with pytest.raises(WrongShapeError, match="Metric"):
        search(toy, [cost], 5)  # type: ignore[list-item]
    with pytest.raises(WrongShapeError, match="budget"):
        search(toy, objectives(), 0)
    assert toy.built == []


def test_one_config_is_a_space_too() -> None:
    class One(Toy):
        def __init__(self) -> None:
            super().__init__()
            self.space = Space([Choice("layer.0", (4,)), Choice("layer.1", (4,))])

    assert len(search(One(), objectives(), 10).trials) == 1


def test_equal_networks_are_measured_once_and_the_searcher_hears_its_own_names() -> None:
    class Folded(Toy):
        def canonical(self, config: Config) -> Config:
            return Config({**config, "layer.0": 5})

    toy, searcher = Folded(choices=2), Stubborn()
    study = search(toy, objectives(), 10, searcher=searcher)
    assert [trial.config["layer.0"] for trial in study.trials] == [5, 5]
    assert len(toy.built) == 2
    assert {config for config, _, _ in searcher.told} == {toy.space.smallest(), toy.space.largest()}


def test_it_ends_as_soon_as_every_network_was_measured() -> None:
    class Twins(Toy):
        asked = 0

        def canonical(self, config: Config) -> Config:
            return self.space.check({**config, "layer.1": 1})

    class Counting(RandomSearch):
        def start(self, problem: Problem) -> Proposer:
            made = super().start(problem)
            ask = made.ask

            def counted(n: int = 1) -> list[Config]:
                Twins.asked += 1
                return ask(n)

            made.ask = counted  # type: ignore[method-assign]
            return made

    study = search(Twins(2, 5), objectives(), 25, searcher=Counting())
    assert len(study.trials) == 5
    assert study.note == "the space is exhausted: all its 5 different networks were measured (25 configs)"
    assert Twins.asked < 60


def test_where_all_fail_the_note_says_so() -> None:
    study = search(Toy(), [Metric("error", lambda member: 1 / 0)], 3, searcher=SMALL, max_failures=9)
    assert study.note.startswith("all 3 trials failed, the last with ZeroDivisionError: division by zero")
