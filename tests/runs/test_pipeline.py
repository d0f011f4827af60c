"""A user's task from its file to the report, and everything that may go wrong on the way."""

from __future__ import annotations

import json
import math
import random
import shlex
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from pliant import runs
from pliant.checks import CorruptFileError, NoEffectWarning, PliantError, UnknownNameError, WrongShapeError
from pliant.cli.main import app
from pliant.report import ReportData, load
from pliant.runs import members, pipeline
from pliant.runs.build import build_family
from pliant.runs.dry import dry_run
from pliant.runs.events import Silence
from pliant.runs.folder import RunFolder
from pliant.runs.members import macs_of_one
from pliant.runs.open import family_of
from pliant.runs.settings import settings_of
from pliant.study import Study
from pliant.tasks import Task, TaskError, load_task

TASK = Path(__file__).parent / "small_task.py"
TINY: dict[str, Any] = {"steps": 12, "budget": 3}
cli = CliRunner(env={"COLUMNS": "200", "NO_COLOR": "1"})


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One whole run, looked at by many tests; those that change it take a copy."""
    out = tmp_path_factory.mktemp("runs") / "whole"
    runs.run(str(TASK), out, **TINY)
    return out


def untimed(data: ReportData) -> Any:
    """Return a report's data without what a clock or a timing decided."""
    rows = []
    for row in data.members:
        kept = {
            name: (m.value, m.unit)
            for name, m in row.measurements.items()
            if not name.startswith(("latency", "memory"))
        }
        rows.append((row.id, dict(row.config), kept, row.kept, [a.path for a in row.artefacts]))
    return (
        rows,
        data.findings.points,
        data.facts.settings,
        data.findings.space_size,
        data.findings.fixed,
        data.facts.created,
    )


@pytest.mark.slow
def test_a_run_ends_with_a_report_and_files(finished: Path) -> None:
    data = load(finished / "report.json")
    page = (finished / "report.html").read_text(encoding="utf-8")
    assert page.startswith("<!")
    assert data.members[0].id == "full"
    assert data.members[0].role == "reference"
    assert len(data.members) >= 2
    assert len(data.findings.points) == TINY["budget"]
    for row in data.members:
        assert row.id in page
        assert {"error", "macs", "params", "bytes", "latency_onnxruntime", "latency_torch"} <= set(row.measurements)
        assert {artefact.format for artefact in row.artefacts} == {"safetensors", "pt2", "onnx"}
        assert all((finished / artefact.path).stat().st_size == artefact.bytes for artefact in row.artefacts)
        assert all(check.passed for check in row.checks)
        timed = row.measurements["latency_onnxruntime"]
        assert {"ratio", "runtime", "threads", "batch", "repeats", "machine"} <= set(timed.details)
    assert all(check.passed for check in data.findings.checks)
    assert {"dry run", "training", "search", "members"} <= {phase.name for phase in data.facts.phases}
    assert not [path for path in finished.rglob(".*") if path.is_file()]


@pytest.mark.slow
def test_running_again_gives_the_same(finished: Path, tmp_path: Path) -> None:
    out = tmp_path / "copy"
    shutil.copytree(finished, out)
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*") if path.is_file() and "members" in path.parts}
    result = runs.run(str(TASK), out, **TINY)
    assert untimed(result.data) == untimed(load(finished / "report.json"))
    assert {path: path.stat().st_mtime_ns for path in before} == before  # nothing was exported again
    (out / "members" / "m1" / "net.onnx").unlink()  # something lost is made again
    (out / "members" / "full" / "member.json").write_text("{")
    result = runs.run(str(TASK), out, **TINY)
    assert untimed(result.data) == untimed(load(finished / "report.json"))


@pytest.mark.slow
def test_a_larger_budget_goes_on_with_the_search(finished: Path, tmp_path: Path) -> None:
    out = tmp_path / "copy"
    shutil.copytree(finished, out)
    old = Study.load(out / "study.db").trials
    runs.run(str(TASK), out, **{**TINY, "budget": 4})
    new = Study.load(out / "study.db").trials
    assert [trial.values for trial in new[:3]] == [trial.values for trial in old]
    assert len(new) == 4


@pytest.mark.slow
def test_members_of_a_finished_run(finished: Path, tmp_path: Path) -> None:
    data, task = load(finished / "report.json"), load_task(TASK)
    for row in data.members:
        net = runs.extract(finished, row.id)
        assert task.evaluate(net, "test")["error"] == row.measurements["error"].value
        assert sum(p.numel() for p in net.parameters()) == row.measurements["params"].value
    artefact = runs.export(finished, "m1", tmp_path / "net.pt2")
    program = torch.export.load(tmp_path / "net.pt2").module()
    (x,) = task.example_args()
    assert torch.allclose(program(x), runs.extract(finished, "m1")(x), atol=1e-5)
    assert artefact.max_error is not None
    assert artefact.max_error <= 1e-4
    out = tmp_path / "later"
    shutil.copytree(finished, out)
    shutil.copy(out / "study.db", out / "search.db")  # another search's trials are other members
    ids = {member.id for member in data.members}
    for point in data.findings.points:
        net = runs.extract(out, point.id)
        assert point.id in ids or macs_of_one(family_of(out)[0]).measure(net).value == point.values["macs"]
    with pytest.raises(UnknownNameError, match=r"no trial in .*study.db named 'p99'"):
        runs.extract(out, "p99")
    with pytest.raises(UnknownNameError, match=r"no member in .* named 'm99'"):
        runs.extract(finished, "m99")
    result = cli.invoke(app, ["extract", str(finished), "--member", "m1", "--out", str(tmp_path / "w.safetensors")])
    assert result.exit_code == 0, result.output
    assert (tmp_path / "w.safetensors").is_file()
    page = runs.report(finished)
    assert "m1" in page.read_text(encoding="utf-8")


@pytest.mark.slow
def test_another_run_is_refused(finished: Path) -> None:
    before = (finished / "run.json").read_bytes()
    result = cli.invoke(app, ["run", str(TASK), "--out", str(finished), "--steps", "13", "--budget", "3"])
    assert result.exit_code == 2
    assert "holds another run: steps was 12, is now 13" in result.stderr
    assert (finished / "run.json").read_bytes() == before


@pytest.mark.slow
def test_the_recipe_is_part_of_the_run(finished: Path) -> None:
    assert json.loads((finished / "run.json").read_text())["asked"]["recipe"] == "rotation"
    asked = [
        "run",
        str(TASK),
        "--out",
        str(finished),
        "--steps",
        "12",
        "--budget",
        "3",
        "--recipe",
        "sandwich(between=1)",
    ]
    result = cli.invoke(app, asked)
    assert result.exit_code == 2
    assert "recipe was 'rotation', is now 'sandwich(between=1)'" in " ".join(result.stderr.split())


@pytest.mark.slow
def test_the_asked_recipe_trains(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Reached(Exception):  # noqa: N818
        pass

    def train(*args: Any, recipe: Any, **how: Any) -> None:
        raise Reached(repr(recipe))

    monkeypatch.setattr(pipeline, "train", train)
    with pytest.raises(Reached, match=r"^Sandwich\(between=1, "):
        runs.run(str(TASK), tmp_path / "run", recipe="sandwich(between=1)", **TINY)


@pytest.mark.slow
def test_a_task_that_changed_is_refused(tmp_path: Path, finished: Path) -> None:
    task, out = tmp_path / "mine.py", tmp_path / "run"
    shutil.copy(TASK, task)
    shutil.copytree(finished, out)
    record = json.loads((out / "run.json").read_text())
    record["asked"]["task"] = str(task)
    (out / "run.json").write_text(json.dumps(record))
    runs.extract(out, "m1")
    task.write_text(TASK.read_text() + "\n# another line\n")
    with pytest.raises(PliantError, match="has changed since the run"):
        runs.extract(out, "m1")
    with pytest.raises(PliantError, match="holds another run: the task's file has changed since"):
        runs.run(str(task), out, **TINY)
    task.unlink()
    with pytest.raises(PliantError, match=r"was .*mine\.py, and there is no such file any more.*with its new path"):
        runs.extract(out, "m1")


@pytest.mark.slow
@pytest.mark.parametrize("file", ["checkpoints", "study.db"])
def test_damaged_files_of_a_run_get_one_clear_error(finished: Path, tmp_path: Path, file: str) -> None:
    out = tmp_path / "copy"
    shutil.copytree(finished, out)
    path = max((out / "checkpoints").iterdir()) if file == "checkpoints" else out / file
    path.write_bytes(b"rubbish" * 100)
    result = cli.invoke(app, ["run", str(TASK), "--out", str(out), "--steps", "12", "--budget", "3"])
    assert result.exit_code == 2
    assert str(path.name) in result.stderr.replace("\n", "")
    assert path.read_bytes() == b"rubbish" * 100


@pytest.mark.slow
def test_constraints_bound_sizes_and_measures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(members, "FORMATS", ("onnx",))
    rules = ["blocks.depth <= 1", "macs <= 60000"]
    result = runs.run(str(TASK), tmp_path / "r", **TINY, constraints=rules)
    assert all(row.config["blocks.depth"] == 1 for row in result.data.members)
    assert all(row.measurements["macs"].value <= 60000 for row in result.data.members[1:])


@pytest.mark.slow
def test_a_front_that_is_empty_is_no_crash(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(members, "FORMATS", ("onnx",))
    result = runs.run(str(TASK), tmp_path / "r", **TINY, constraints=["error <= -1"])
    assert [row.id for row in result.data.members] == ["full"]
    assert result.report.is_file()


def test_a_constraint_that_no_member_can_keep_is_said_before_the_training(tmp_path: Path) -> None:
    with pytest.raises(WrongShapeError, match=r"none of the 32 configs keeps 'macs <= 1.0': macs goes from"):
        runs.run(str(TASK), tmp_path / "r", **TINY, constraints=["macs <= 1"])
    assert not (tmp_path / "r" / "checkpoints").exists()


def make(task: Task, choices: tuple[str, ...] = ("width", "depth")) -> Any:
    return build_family(task, choices, [], seed=0)


def test_the_dry_run_leaves_everything_as_it_was() -> None:
    task = load_task(TASK)
    family = make(task)
    family.model.stem.eval()
    state = {name: value.clone() for name, value in family.model.state_dict().items()}
    random_states = torch.get_rng_state(), random.getstate(), np.random.get_state()  # noqa: NPY002
    found = dry_run(family, task, 0)
    assert all(torch.equal(value, state[name]) for name, value in family.model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), random_states[0])
    assert random.getstate() == random_states[1]
    assert np.array_equal(np.random.get_state()[1], random_states[2][1])  # type: ignore[index]  # noqa: NPY002
    assert all(parameter.grad is None for parameter in family.parameters())
    assert not family.prepared
    assert (family.model.training, family.model.stem.training) == (True, False)
    assert all(check.passed for check in found.checks)
    assert found.step_seconds > 0
    assert "MiB" in found.foretell(100, 10)


def wrong(**functions: Any) -> Task:
    task = load_task(TASK)
    return replace(task, functions={**task.functions, **functions})


class Stiff(torch.nn.Module):
    """Its only sizes are those of its input and its output."""

    def __init__(self) -> None:
        super().__init__()
        self.only = torch.nn.Linear(64, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.only(x.flatten(1))


@pytest.mark.filterwarnings("ignore::pliant.checks.NoEffectWarning")
def test_nothing_that_bends_is_said() -> None:
    task = wrong(model=Stiff)
    with pytest.raises(PliantError, match=r"nothing bends.*pliant analyze"):
        dry_run(make(task), task, 0)
    with pytest.warns(NoEffectWarning, match="found nothing to bend"):
        make(task)


@pytest.mark.parametrize(
    ("name", "text"), [("params", "calls a cost"), ("latency_p50", "calls a cost"), ("blocks.depth", "and of a choice")]
)
def test_an_error_with_the_name_of_something_else_is_refused_before_training(name: str, text: str) -> None:
    task = wrong(evaluate=lambda model, split: {name: 1.0})
    with pytest.raises(WrongShapeError, match=text):
        dry_run(build_family(load_task(TASK), ("width", "depth"), [], 0), task, 0)


def test_a_network_that_does_not_take_the_example_is_the_tasks_fault() -> None:
    task = wrong(example_args=lambda: (torch.zeros(2, 1, 8, 8, dtype=torch.float64),))
    with pytest.raises(TaskError, match=r"small_task\.py, line \d+: model\(\) raised RuntimeError"):
        make(task)


@pytest.mark.parametrize(
    ("asked", "text"),
    [
        ({"lr": 0.0}, "lr is a number above 0, got 0.0"),
        ({"lr": math.nan}, "lr is a number above 0, got nan"),
        ({"lr": "high"}, "lr is a number above 0, got 'high'"),
        ({"steps": 0}, "steps is a whole number from 1 on, got 0: .* SETTINGS of the task .*small_task"),
        ({"budget": 2.5}, "budget is a whole number from 1 on, got 2.5"),
        ({"steps": True}, "steps is a whole number from 1 on, got True"),
        ({"warmup": -1}, "warmup is 0 or a number above, got -1"),
    ],
)
def test_settings_out_of_range_are_refused_before_anything_is_written(asked: Any, text: str, tmp_path: Path) -> None:
    with pytest.raises(WrongShapeError, match=text):
        settings_of(load_task(TASK), False, asked)
    if not {"warmup"} & asked.keys():
        with pytest.raises(WrongShapeError, match=text):
            runs.run(str(TASK), tmp_path / "run", **asked)
        assert not (tmp_path / "run").exists()


def test_the_line_that_does_a_run_again_can_be_pasted(tmp_path: Path) -> None:
    plan = pipeline._Plan(
        replace(load_task(TASK), name="my task.py"), {"recipe": "rotation"}, ("width",), (), 0, 1, False
    )
    line = pipeline._Run(plan, RunFolder(tmp_path / "a run"), Silence())._command()
    assert shlex.split(line)[:5] == ["pliant", "run", "my task.py", "--out", "a run"]
    assert "--lr 0.001" in line


@pytest.mark.parametrize(
    ("constraint", "kind", "text"),
    [
        ("blocks.dept >= 1", UnknownNameError, r"did you mean 'blocks\.depth'"),
        ("blocks.depth >= 5", WrongShapeError, "none of its options"),
        ("mac <= 5", UnknownNameError, "did you mean 'macs'"),
        ("macs 5", PliantError, "macs 5"),
    ],
)
def test_wrong_constraints_are_refused_before_training(constraint: str, kind: Any, text: str) -> None:
    task = load_task(TASK)

    def begin() -> None:
        dry_run(build_family(task, ("width", "depth"), [constraint], 0), task, 0, [constraint])

    with pytest.raises(kind, match=text):
        begin()


def test_mistakes_do_not_claim_the_folder(tmp_path: Path) -> None:
    command = ["run", str(TASK), "--out", str(tmp_path / "r"), "--steps", "2"]
    wrong_choice = cli.invoke(app, [*command, "--choices", "widht"])
    assert wrong_choice.exit_code == 2
    assert "did you mean 'width'" in wrong_choice.stderr
    wrong_rule = cli.invoke(app, [*command, "--constraint", "blocks.dept >= 1"])
    assert wrong_rule.exit_code == 2
    assert "did you mean 'blocks.depth'" in wrong_rule.stderr


@pytest.mark.slow
def test_nan_in_the_tasks_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PLIANT_TEST_FAULT", "nan")
    command = ["run", str(TASK), "--out", str(tmp_path / "r"), "--steps", "40", "--budget", "2"]
    result = cli.invoke(app, command)
    assert result.exit_code == 2
    assert result.stderr.startswith("error: the loss of member {")
    assert "is nan at step 25" in result.stderr
    kept = sorted(path.name for path in (tmp_path / "r" / "checkpoints").iterdir())
    assert kept[-1] == "checkpoint-00000020.safetensors"


def test_a_folder_that_holds_no_finished_run(tmp_path: Path) -> None:
    with pytest.raises(CorruptFileError, match="there is no run in"):
        runs.extract(tmp_path, "m1")
    result = cli.invoke(app, ["report", str(tmp_path)])
    assert result.exit_code == 2
    assert "the run has not finished yet" in result.stderr
