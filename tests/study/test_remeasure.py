"""Noise: the front is measured again, and all that was measured is kept."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from pliant.checks import WrongShapeError
from pliant.measure import Measurement, Metric, Objective
from pliant.space import Config, Problem
from pliant.study import Study, Trial, search
from pliant.study.records import combined
from pliant.technique import Proposer, Searcher
from pliant.techniques.search.nsga2 import Nsga2
from tests.study.crews import Shuffled
from tests.study.toy import Member, Toy, cost, error

SMALL = Nsga2(population=8)


def noisy(member: nn.Module) -> float:
    return error(member) + 2 * torch.randn(()).item()


def objectives() -> list[Objective]:
    return [Metric("error", noisy, unit="%"), Metric("cost", cost)]


def outcome(study: Study) -> list[Any]:
    return [(t.number, t.config, dict(t.values), t.times, t.violation) for t in study.trials]


def test_each_of_the_front_is_measured_so_often_and_has_the_mean() -> None:
    toy = Toy()
    study = search(toy, objectives(), 40, searcher=SMALL, remeasure=4)
    assert len(study.trials) == 40
    assert all(trial.times >= 4 for trial in study.front)
    assert any(trial.times == 1 for trial in study.trials)
    for trial in study.trials:
        assert toy.built.count(trial.config) == trial.times
        found = trial.measurements["error"]
        if trial.times > 1:
            each = found.details["each"]
            assert [one["seed"] for one in each] == list(range(trial.times))
            assert len({one["value"] for one in each}) == trial.times  # with random numbers of its own
            assert found.value == pytest.approx(np.mean([one["value"] for one in each]))
            assert found.details["repeats"] == found.details["measured"] == trial.times
            low, high = np.percentile([one["value"] for one in each], [25, 75])
            assert found.spread == pytest.approx(high - low)
        assert trial.values["error"] == found.value


def test_the_mean_is_nearer_to_the_truth() -> None:
    def miss(remeasure: int) -> float:
        front = search(Toy(), objectives(), 60, searcher=SMALL, remeasure=remeasure).front
        return float(np.mean([abs(trial.values["error"] - error(Member(trial.config))) for trial in front]))

    assert miss(8) < miss(1) / 1.8  # the root of 8, less what the choice of lucky ones costs


@pytest.mark.slow
def test_a_study_killed_while_the_front_is_measured_again(tmp_path: Path) -> None:
    class Killed(BaseException):
        pass

    def run(storage: Path, at: int, budget: int = 20) -> Study:
        count = 0

        def dies(member: nn.Module) -> float:
            nonlocal count
            count += 1
            if count == at:
                raise Killed
            return noisy(member)

        measured = [Metric("error", dies, unit="%"), Metric("cost", cost)]
        return search(Toy(), measured, budget, searcher=SMALL, remeasure=3, storage=storage)

    whole = run(tmp_path / "whole.db", 0)
    for at in (20, 1, 5, 3):
        with pytest.raises(Killed):
            run(tmp_path / "killed.db", at)
    assert outcome(run(tmp_path / "killed.db", 0)) == outcome(whole)
    assert outcome(Study.load(tmp_path / "killed.db")) == outcome(whole)
    # and with more budget, both go on alike, the repeats told where they were told before
    with pytest.raises(Killed):
        run(tmp_path / "killed.db", 6, 30)
    assert outcome(run(tmp_path / "killed.db", 0, 30)) == outcome(run(tmp_path / "whole.db", 0, 30))


def test_the_searcher_is_told_the_new_values() -> None:
    told: list[tuple[Config, float]] = []

    class Watching(Searcher):
        def start(self, problem: Problem) -> Proposer:
            running = SMALL.start(problem)

            class Noted:
                def ask(self, n: int = 1) -> list[Config]:
                    return running.ask(n)

                def tell(self, config: Config, values: Sequence[float], violation: float = 0.0) -> None:
                    told.append((config, values[0]))
                    running.tell(config, values, violation)

            return Noted()

    study = search(Toy(), objectives(), 12, searcher=Watching(), remeasure=3)
    last = dict(told)
    assert all(last[trial.config] == trial.values["error"] for trial in study.trials)
    assert len(told) == sum(trial.times for trial in study.trials)


def test_several_workers_and_failures_in_repeats() -> None:
    def fragile(member: nn.Module) -> float:
        assert isinstance(member, Member)
        if torch.initial_seed() > 0 and member.config["layer.0"] == 5:
            raise ValueError("not twice")
        return noisy(member)

    seen: list[Trial] = []
    measured = [Metric("error", fragile), Metric("cost", cost)]
    study = search(
        Toy(), measured, 30, searcher=SMALL, remeasure=3, workers=Shuffled(3), max_failures=99, on_trial=seen.append
    )
    assert len(study.trials) == 30
    for trial in study.front:
        assert trial.times == (1 if trial.config["layer.0"] == 5 else trial.times)
        assert trial.times >= 3 or trial.config["layer.0"] == 5
    assert {(t.config, t.values["error"]) for t in seen} >= {(t.config, t.values["error"]) for t in study.front}


def test_one_measurement_is_left_as_it_is() -> None:
    one = Measurement(3.0, "ms", 0.5, {"repeats": 20, "seed": 1, "machine": {"cpu": "x"}, "ratio": 2.0})
    assert combined([one]) is one
    both = combined([one, Measurement(5.0, "ms", 0.7, {"repeats": 30, "seed": 2, "machine": {"cpu": "y"}})])
    assert (both.value, both.unit, both.spread, both.details["repeats"]) == (4.0, "ms", 1.0, 50)
    assert both.details["each"] == [
        {"value": 3.0, "spread": 0.5, "seed": 1, "repeats": 20, "machine": {"cpu": "x"}},
        {"value": 5.0, "spread": 0.7, "seed": 2, "repeats": 30, "machine": {"cpu": "y"}},
    ]


def test_how_often_is_at_least_once() -> None:
    with pytest.raises(WrongShapeError, match="remeasure"):
        search(Toy(), objectives(), 5, remeasure=0)
