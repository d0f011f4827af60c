"""Searching a trained run again, from Python and from the command line."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from pliant import runs
from pliant.checks import CorruptFileError, PliantError, UnknownNameError
from pliant.cli.main import app
from pliant.runs.build import build_family, default_choices
from pliant.runs.folder import RunFolder
from pliant.runs.spec import searcher
from pliant.study import Study
from pliant.tasks import load_task
from pliant.techniques.search.nsga2 import Nsga2
from pliant.techniques.search.random_search import RandomSearch

TASK = Path(__file__).parent / "small_task.py"
cli = CliRunner(env={"COLUMNS": "200", "NO_COLOR": "1"})


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a run leaves when it is killed after its training."""
    out = tmp_path_factory.mktemp("runs") / "trained"
    task = load_task(str(TASK))
    folder = RunFolder.claim(out, {"task": str(TASK), "digest": task.digest, "seed": 4})
    folder.record["training_threads"] = 1
    build_family(task, default_choices(), (), 4).save(out / "family")
    folder.record["stages"]["training"] = "now"
    folder.write()
    return out


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(trained, tmp_path / "a run"))


class Heard:
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.phases: list[tuple[str, int | None]] = []
        self.steps: list[tuple[int, dict[str, float]]] = []
        self.notes: list[str] = []

    def phase(self, name: str, total: int | None = None) -> None:
        self.phases.append((name, total))

    def step(self, done: int, **figures: float) -> None:
        self.steps.append((done, figures))

    def note(self, text: str) -> None:
        self.notes.append(text)


def values(study: Study) -> list[Any]:
    return [(trial.config, dict(trial.values)) for trial in study.trials]


@pytest.mark.slow
def test_progress_tells_the_hypervolume_and_the_front(run: Path) -> None:
    heard = Heard()
    study = runs.search(run, budget=8, searcher="nsga2(population=4)", events=heard)
    assert list(study.directions) == ["error", "macs"]
    assert heard.phases == [("search", 8)]
    assert [done for done, _ in heard.steps] == list(range(1, 9))
    assert heard.steps[-1][1] == {"hypervolume": study.hypervolume(), "front": len(study.front)}
    assert 0 < study.hypervolume() < 1
    alone = Heard()
    runs.search(run, budget=4, objectives=["macs"], storage=run / "macs.db", events=alone)
    assert alone.steps[-1][1] == {"macs": min(t.values["macs"] for t in Study.load(run / "macs.db").trials)}


@pytest.mark.slow
def test_resume_takes_what_is_not_given_from_the_study(run: Path) -> None:
    asked: dict[str, Any] = {
        "searcher": "random_search",
        "constraints": ["macs <= 90000", "layers.depth >= 1", "params >= 10"],
        "objectives": ["error", "bytes"],
        "seed": 9,
    }
    depth = next(each.name for each in load(run).space.choices if each.name.endswith("depth"))
    asked["constraints"][1] = f"{depth} >= 1"
    first = runs.search(run, budget=4, **asked)
    heard = Heard()
    study = runs.search(run, budget=7, resume=True, events=heard)
    assert values(study)[:4] == values(first)
    assert values(study) == values(runs.search(run, budget=7, storage=run / "whole.db", **asked))
    assert [done for done, _ in heard.steps] == [5, 6, 7]
    assert all(trial.config[depth] >= 1 for trial in study.trials)  # type: ignore[operator]
    assert set(study.trials[0].measurements) == {"error", "bytes", "macs", "params"}
    with pytest.raises(PliantError, match="no study file"):
        runs.search(run, budget=4, resume=True, storage=run / "none.db")
    with pytest.raises(PliantError, match="another study.*seed is 9, yours 4"):
        runs.search(run, budget=9, **{**asked, "seed": None})


def load(run: Path) -> Any:
    from pliant.runs.open import family_of

    return family_of(run)[0]


@pytest.mark.slow
def test_resume_takes_the_budget_the_repeats_and_the_threads_too(run: Path) -> None:
    asked: dict[str, Any] = {"objectives": ["macs", "latency"], "searcher": "random_search"}
    runs.search(run, budget=1, threads=2, remeasure=2, **asked)
    assert len(runs.search(run, resume=True).trials) == 1
    with pytest.raises(PliantError, match=r"settings is .*'threads': 2.*, yours .*'threads': 1"):
        runs.search(run, budget=2, **asked)
    study = runs.search(run, budget=2, resume=True)
    assert {trial.measurements["latency"].details["threads"] for trial in study.trials} == {2}
    assert {trial.times for trial in study.front} == {2}


@pytest.mark.slow
def test_results_from_elsewhere_and_the_front_again(run: Path) -> None:
    space = load(run).space
    config = space.smallest()
    (run / "r.json").write_text(json.dumps([{"config": dict(config), "values": {"error": 1.0, "macs": 5.0}}]))
    study = runs.search(run, budget=3, results=run / "r.json", remeasure=2, searcher="nsga2(population=4)")
    assert study.trials[0].imported == "r.json"
    assert sum(not trial.imported for trial in study.trials) == 3
    assert all(trial.times == 2 for trial in study.front)


@pytest.mark.slow
def test_what_is_not_there(run: Path, tmp_path: Path) -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'error'"):
        runs.search(run, objectives=["eror"])
    with pytest.raises(UnknownNameError, match="did you mean 'macs'"):
        runs.search(run, constraints=["mcas <= 3"])
    with pytest.raises(UnknownNameError, match="did you mean"):
        runs.search(run, constraints=["layers.dpth <= 3"])
    with pytest.raises(CorruptFileError, match="no run in"):
        runs.search(tmp_path)
    record = json.loads((run / "run.json").read_text())
    record["stages"].clear()
    (run / "run.json").write_text(json.dumps(record))
    with pytest.raises(PliantError, match="not trained yet"):
        runs.search(run)


def test_searchers_as_text() -> None:
    assert searcher("nsga2(population=4, crossover=0.5)") == Nsga2(population=4, crossover=0.5)
    assert searcher("RandomSearch()") == RandomSearch()
    assert searcher(repr(Nsga2())) == Nsga2()
    with pytest.raises(PliantError, match="searches nothing; choose from .*nsga2"):
        searcher("width")
    with pytest.raises(UnknownNameError, match="did you mean 'population'"):
        searcher("nsga2(popluation=4)")
    with pytest.raises(PliantError, match="one searcher"):
        searcher("nsga2, random_search")


@pytest.mark.slow
def test_the_command_shows_the_front_and_how_to_export(run: Path) -> None:
    asked = ["search", str(run), "--budget", "5", "--searcher", "nsga2(population=4)"]
    result = cli.invoke(app, asked)
    assert result.exit_code == 0, result.output
    study = Study.load(run / "search.db")
    best = study.front[0]
    export = f"pliant export '{run}' --member t{best.number}"
    for words in ("5 members measured", f"{len(study.front)} on the front", "hypervolume", export):
        assert words in result.output
    assert "bend" not in result.stderr
    member = ["--member", f"t{best.number}", "--out", str(run / "m.safetensors")]
    assert cli.invoke(app, ["extract", str(run), *member]).exit_code == 0
    missing = cli.invoke(app, ["extract", str(run), "--member", "t99", "--out", str(run / "m.safetensors")])
    assert missing.exit_code == 2
    assert "no trial in" in missing.stderr
    again = cli.invoke(app, ["search", str(run), "--budget", "6", "--resume", "--remeasure", "2"])
    assert again.exit_code == 0
    assert "6 members measured" in again.output
    assert "2×" in again.output
    other = cli.invoke(app, [*asked, "--seed", "8"])
    assert other.exit_code == 2
    assert "another study" in other.stderr


@pytest.mark.slow
def test_the_command_says_what_no_member_can(run: Path) -> None:
    result = cli.invoke(app, ["search", str(run), "--budget", "4", "--constraint", "macs <= 1"])
    assert result.exit_code == 2
    assert "keeps 'macs <= 1.0': macs goes from" in result.stderr
    result = cli.invoke(app, ["search", str(run), "--budget", "3", "--constraint", "error <= 0"])
    assert result.exit_code == 0
    assert "none of 3 measured configs keeps the constraints" in result.stdout
    assert "0 on the front" in result.stdout


@pytest.mark.slow
def test_two_processes_find_the_same_values(run: Path) -> None:
    alone = runs.search(run, budget=6, searcher="random_search")
    both = runs.search(run, budget=6, searcher="random_search", workers=2, storage=run / "two.db")
    assert sorted(map(str, values(both))) == sorted(map(str, values(alone)))
