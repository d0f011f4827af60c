"""What a study tells of its trials."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pliant.checks import PliantError, UnknownNameError, WrongShapeError
from pliant.measure import Measurement, Metric
from pliant.study import Study, Trial, search
from tests.study.toy import Toy, cost, error, objectives


def made(*points: tuple[float, float], violations: tuple[float, ...] = ()) -> Study:
    space = Toy(2, 9).space
    padded = (*violations, *[0.0] * len(points))
    trials = [
        Trial(number, config, {"error": a, "gain": b}, violation=violation)
        for number, ((a, b), config, violation) in enumerate(zip(points, space.enumerate(), padded, strict=False))
    ]
    failed = Trial(len(trials), space.largest(), state="failed", violation=float("inf"))
    return Study(space, {"error": "min", "gain": "max"}, [*trials, failed])


def test_the_front_keeps_directions_and_order() -> None:
    study = made((3, 9), (1, 1), (2, 5), (2, 4), (4, 9))
    assert [trial.number for trial in study.front] == [1, 2, 0]


def test_infeasible_trials_are_on_no_front() -> None:
    study = made((0, 99), (1, 1), violations=(0.1,))
    assert [trial.number for trial in study.front] == [1]
    assert study.best("error").number == 1


def test_best_and_its_errors() -> None:
    study = made((3, 9), (1, 1), (2, 5))
    assert study.best("gain").number == 0
    assert study.best("error").number == 1
    with pytest.raises(UnknownNameError, match="did you mean 'error'"):
        study.best("eror")
    with pytest.raises(PliantError, match="feasible"):
        made().best("error")
    assert made().front == []


def test_front_of_a_search_against_brute_force() -> None:
    study = search(Toy(), objectives(), 150)
    points = [(trial.values["error"], trial.values["cost"]) for trial in study.trials]
    kept = [p for p in points if not any(q != p and q[0] <= p[0] and q[1] <= p[1] for q in points)]
    assert sorted(kept) == [(trial.values["error"], trial.values["cost"]) for trial in study.front]


@pytest.mark.slow
def test_stored_trials_are_optunas_too(tmp_path: Path) -> None:
    class Timed(Metric):
        def measure(self, member: object) -> Measurement:
            return Measurement(cost(member), "ms", 0.5, {"repeats": 20, "machine": {"cpu": "x"}})  # type: ignore[arg-type]

    path = tmp_path / "sub" / "folder" / "study.db"
    search(Toy(), [Metric("error", error), Timed("time", cost)], 25, storage=str(path), constraints=["time <= 60"])
    study = Study.load(path)
    assert study.trials[3].measurements["time"].details == {"repeats": 20, "machine": {"cpu": "x"}, "seed": 0}
    assert study.trials[3].measurements["time"].spread == 0.5

    import optuna

    plain = optuna.load_study(study_name="pliant", storage=f"sqlite:///{path}")
    assert plain.trials[3].params == dict(study.trials[3].config)
    assert {trial.number for trial in plain.best_trials} == {trial.number for trial in study.front}
    json.dumps(plain.trials[3].user_attrs)
    next_trial = plain.ask({name: plain.trials[0].distributions[name] for name in study.space.largest()})
    assert next_trial.params.keys() == study.space.largest().keys()
    each: Any
    for each in (plain, study.optuna):
        each._storage._backend.engine.dispose()


def test_loading_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "s.db"
    search(Toy(), objectives(), 5, storage=path)
    before = path.read_bytes()
    assert len(Study.load(path).trials) == 5
    assert path.read_bytes() == before


def test_a_study_and_its_trials_in_a_notebook() -> None:
    study = made((3, 9), (1, 1))
    assert repr(study) == (
        "Study(3 trials, 1 of them failed, 2 on the front of error (min) and gain (max); Space(2 choices, 81 configs))"
    )
    assert set(study.front) == set(study.trials[:2])
    with pytest.raises(WrongShapeError, match=r"by name, such as \{'error': 1.0, 'gain': 1.0\}, got \[4, 1\]"):
        study.hypervolume([4, 1])  # type: ignore[arg-type]
    with pytest.raises(UnknownNameError, match=r"no reference value named 'gain' \(known: error\)"):
        study.hypervolume({"error": 1})
