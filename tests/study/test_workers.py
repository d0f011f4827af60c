"""Several workers: each config goes to one, and to another when that one dies."""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path
from random import Random
from typing import Any

import pytest
import torch
from torch import nn

from pliant.checks import MissingExtraError, PliantError, WrongShapeError
from pliant.measure import Metric, Params
from pliant.space import Config
from pliant.study import InProcess, LocalProcesses, RayTasks, Study, Trial, search
from pliant.study.evaluation import Evaluation
from pliant.study.workers import Workers, workers
from pliant.study.workers.package import packed, unpacked
from pliant.techniques.search.nsga2 import Nsga2
from tests.helpers.nursery import Nursery
from tests.study.crews import Shuffled
from tests.study.toy import Member, Toy, cost, error, objectives

ROOT = Path(__file__).parents[2]


def values(study: Study) -> dict[Config, dict[str, float]]:
    return {trial.config: dict(trial.values) for trial in study.trials}


def test_each_config_goes_to_one_worker_and_all_are_busy() -> None:
    toy, crew, seen = Toy(), Shuffled(4), list[Trial]()
    study = search(toy, objectives(), 100, workers=crew, on_trial=seen.append)
    assert len(study.trials) == 100 == len(set(crew.given)) == len(crew.given)
    assert crew.most == 4
    assert crew.closed == 1
    assert toy.built == [trial.config for trial in study.trials] == [trial.config for trial in seen]
    assert [trial.number for trial in seen] == list(range(100))
    alone = Toy()
    assert values(study) == {
        config: {each.name: each.measure(alone.ready(config)).value for each in objectives()} for config in crew.given
    }


def test_one_worker_of_any_kind_gives_the_same_study() -> None:
    study = search(Toy(), objectives(), 40, searcher=Nsga2(population=8))
    same = search(Toy(), objectives(), 40, searcher=Nsga2(population=8), workers=Shuffled(1))
    assert [(t.config, t.values) for t in same.trials] == [(t.config, t.values) for t in study.trials]


@pytest.mark.slow
def test_a_stored_study_of_several_workers_goes_on_and_gives_the_same_twice(tmp_path: Path) -> None:
    search(Toy(), objectives(), 20, workers=Shuffled(3), storage=tmp_path / "s.db")
    content = (tmp_path / "s.db").read_bytes()
    (tmp_path / "other.db").write_bytes(content)
    toy = Toy()
    study = search(toy, objectives(), 35, storage=tmp_path / "s.db")
    again = search(Toy(), objectives(), 35, storage=tmp_path / "other.db")
    assert len(toy.built) == 15
    assert [(t.config, t.values) for t in study.trials] == [(t.config, t.values) for t in again.trials]
    more = search(Toy(), objectives(), 45, workers=Shuffled(2), storage=tmp_path / "s.db")
    assert [t.config for t in more.trials[:35]] == [t.config for t in study.trials]
    assert len(set(values(more))) == 45


def test_a_worker_that_dies_has_its_config_given_to_another() -> None:
    crew = Shuffled(3, dies=lambda config, times: config["layer.0"] == 5 and times < 3)
    study = search(Toy(), objectives(), 40, workers=crew)
    assert all(trial.state == "complete" for trial in study.trials)
    assert len(study.trials) == 40
    assert any(crew.given.count(trial.config) == 3 for trial in study.trials)


def test_a_config_that_kills_its_workers_counts_as_failed() -> None:
    crew = Shuffled(3, dies=lambda config, times: config["layer.0"] == 5 and config["layer.1"] == 5)
    study = search(Toy(), objectives(), 60, workers=crew, max_failures=50)
    failed = [trial for trial in study.trials if trial.state == "failed"]
    assert failed
    assert all(trial.error == "3 workers died over it, the last: killed by SIGKILL" for trial in failed)
    assert all(crew.given.count(trial.config) == 3 for trial in failed)
    with pytest.raises(PliantError, match="5 trials in a row failed.*3 workers died"):
        search(Toy(), objectives(), 60, workers=Shuffled(2, dies=lambda *_: True))


def test_an_exhausted_space_ends_the_study_with_several_workers() -> None:
    study = search(Toy(choices=2, options=3), objectives(), 100, workers=Shuffled(4))
    assert len(study.trials) == 9
    assert "all its 9 configs" in study.note


@pytest.mark.slow
def test_what_was_out_when_the_search_was_stopped_is_measured_again(tmp_path: Path) -> None:
    count = 0

    def missing(member: nn.Module) -> float:
        nonlocal count
        count += 1
        if count == 12:
            raise MissingExtraError("pip install 'pliant[onnx]'")
        return error(member)

    with pytest.raises(MissingExtraError, match="pip install"):
        search(Toy(), objectives(missing), 30, workers=Shuffled(4), storage=tmp_path / "s.db")
    assert len(Study.load(tmp_path / "s.db").trials) == 11
    study = search(Toy(), objectives(), 30, workers=Shuffled(4), storage=tmp_path / "s.db")
    assert len(values(study)) == 30
    states = [row.state.name for row in study.optuna.get_trials()]
    assert states.count("COMPLETE") == 30
    assert states.count("FAIL") == 4


def test_what_workers_may_be() -> None:
    assert workers(1) == InProcess()
    assert workers(3) == LocalProcesses(3)
    assert isinstance(RayTasks(), Workers)
    assert workers(RayTasks(cpus=2)) == RayTasks(cpus=2)
    for wrong in (0, -1, True, "2", 1.5):
        with pytest.raises(WrongShapeError, match="LocalProcesses"):
            search(Toy(), objectives(), 5, workers=wrong)  # type: ignore[arg-type]
    with pytest.raises(WrongShapeError, match="at least 1"):
        LocalProcesses(0)
    with pytest.raises(WrongShapeError, match="at least 1"):
        RayTasks(count=0)


def test_an_evaluation_travels_with_what_the_user_wrote() -> None:
    factor = 3.0

    class Mine(Toy):
        def ready(self, config: Config) -> Member:
            return Member(Config({**config, "layer.0": 1}))

    metrics = (Metric("error", lambda member: factor * error(member)), Metric("cost", cost))
    config = Toy().space.largest()
    before = Evaluation(Mine(), metrics, 3).measure(config)
    after = unpacked(packed(Evaluation(Mine(), metrics, 3))).measure(config)
    assert not before.error
    assert after == before
    assert before.measurements["error"].details["seed"] == 3
    assert before.measurements["error"].details["repeats"] == 1
    assert "cpu" in before.measurements["error"].details["machine"]


def test_what_cannot_travel_is_said() -> None:
    lock = threading.Lock()

    def locked(member: nn.Module) -> float:
        with lock:
            return error(member)

    with pytest.raises(PliantError, match=r"cannot be sent to a worker.*lock.*workers=1"):
        search(Toy(), objectives(locked), 5, workers=2)


def test_a_family_travels_with_its_weights_and_statistics() -> None:
    from pliant.family import Family, at
    from pliant.techniques.elastic.depth import Depth
    from pliant.techniques.elastic.width import Width
    from tests.family.nets import ConvNet, images

    choices: list[Any] = [Width(ratios=(0.5, 1), multiple=4), at("blocks*", Depth(least=0, order=("blocks.0",)))]
    family = Family(ConvNet(), (images(),), choices, constraints=["blocks.0.width >= 8"])
    with torch.no_grad():
        for parameter in family.parameters():  # as training would, after the family was made
            parameter.add_(torch.randn_like(parameter) * 0.1)
    family.calibrate_with([(images(), None) for _ in range(3)])
    probe = images()
    metrics = (Metric("sum", lambda member: member(probe).square().sum()), Params())
    here, there = Evaluation(family, metrics, 0), unpacked(packed(Evaluation(family, metrics, 0)))
    assert there.family is not family
    for config in (family.space.smallest(), family.space.largest(), family.space.sample(Random(0))):
        assert here.measure(config) == there.measure(config)


# -- processes ---------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_processes_measure_the_same_at_twice_the_speed() -> None:
    ends: list[float] = []

    def slowly(member: nn.Module) -> float:
        time.sleep(0.3)
        return error(member)

    def noted(trial: Trial) -> None:
        ends.append(time.monotonic())

    study = search(Toy(), objectives(slowly), 40, workers=2, on_trial=noted, searcher=Nsga2(population=8))
    assert len(values(study)) == 40
    alone = Toy()
    assert all(trial.values["error"] == error(alone.ready(trial.config)) for trial in study.trials)
    taken = ends[-1] - ends[1]  # the first two began together, when the processes had started
    assert taken < 38 * 0.3 / 1.8, taken


@pytest.mark.slow
def test_killed_workers_are_replaced_and_none_outlives_the_search(tmp_path: Path) -> None:
    def deadly(member: nn.Module) -> float:
        (tmp_path / f"{os.getpid()}.pid").touch()
        if cost(member) > 70:
            mark = tmp_path / f"{cost(member)}.killed"
            if not mark.exists() and len(list(tmp_path.glob("*.killed"))) < 2:  # each costs the start of a process
                mark.touch()
                os.kill(os.getpid(), signal.SIGKILL)
        return error(member)

    study = search(Toy(), objectives(deadly), 16, workers=2, storage=tmp_path / "s.db", searcher=Nsga2(population=8))
    assert len(values(study)) == 16
    assert all(trial.state == "complete" for trial in study.trials)
    assert list(tmp_path.glob("*.killed"))
    assert [row.state.name for row in study.optuna.get_trials()] == ["COMPLETE"] * 16
    for mark in tmp_path.glob("*.pid"):
        assert not Path("/proc", mark.stem).exists()


@pytest.mark.slow
def test_processes_end_with_the_search_that_was_killed(nursery: Nursery, tmp_path: Path) -> None:
    code, path = "from tests.study.killed_search import main; main()", tmp_path / "s.db"
    process = nursery.start(code, str(path), "500", "0.1", "2", cwd=ROOT, log=tmp_path / "log")
    try:
        end = time.monotonic() + 60
        while not process.wait(0.1) and time.monotonic() < end and _finished(path) < 6:
            pass  # both load
        children = _children(process.pid)
        assert len(children) == 2, process.remarks
    finally:
        process.send(signal.SIGKILL)
        assert process.wait(60)
    end = time.monotonic() + 10
    while any(_alive(child) for child in children) and time.monotonic() < end:
        time.sleep(0.1)
    assert not any(_alive(child) for child in children)


def _finished(path: Path) -> int:
    """Return how many trials of the study in a file are complete."""
    try:
        return sum(trial.state == "complete" for trial in Study.load(path).trials)
    except PliantError:  # it is not there yet, or being made
        return 0


def _children(process: int) -> list[int]:
    return [int(each) for each in Path(f"/proc/{process}/task/{process}/children").read_text().split()]


def _alive(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


@pytest.mark.slow
def test_a_worker_that_cannot_load_says_why() -> None:
    class Stubborn(Toy):
        def __reduce__(self) -> Any:
            return _refuse, ("no such module",)

    with pytest.raises(PliantError, match="cannot load.*ImportError: no such module"):
        search(Stubborn(), objectives(), 5, workers=LocalProcesses(1))


def _refuse(text: str) -> None:
    raise ImportError(text)


@pytest.mark.slow
def test_workers_that_die_at_the_start_end_the_search() -> None:
    class Deadly(Toy):
        def __reduce__(self) -> Any:
            return os._exit, (3,)

    with pytest.raises(PliantError, match=r"3 worker processes in a row died while they loaded.*exit code 3"):
        search(Deadly(), objectives(), 5, workers=LocalProcesses(1))
