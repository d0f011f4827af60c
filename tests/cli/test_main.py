"""The command line: help at once, one clear message for an error, and the commands that need no run."""

from __future__ import annotations

import subprocess
import sys
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from typer.testing import CliRunner

import pliant
from pliant.checks import NoEffectWarning, PliantError
from pliant.cli import running, searching
from pliant.cli.main import app
from pliant.report import save
from tests.report.sample import sample

runner = CliRunner(env={"COLUMNS": "200", "NO_COLOR": "1"})


def test_help_names_every_command() -> None:
    result = runner.invoke(app, ["--help"])
    assert result.exit_code == 0
    for command in ("run", "search", "analyze", "extract", "export", "report", "systems", "new-task"):
        assert command in result.output
        assert runner.invoke(app, [command, "--help"]).exit_code == 0


def test_the_package_is_the_command_too() -> None:
    found = subprocess.run([sys.executable, "-m", "pliant", "--help"], check=True, capture_output=True, text=True)
    assert "analyze" in found.stdout
    assert "pliant [OPTIONS]" in found.stdout
    assert "__main__" not in found.stdout


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys\nfrom pliant.cli.main import app\n"
        "try:\n    app(['--help'])\nexcept SystemExit:\n    pass\n"
        "heavy = {'torch', 'numpy', 'optuna', 'sklearn', 'jinja2', 'plotly', 'pymoo', 'onnx'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_version() -> None:
    assert runner.invoke(app, ["--version"]).output.strip() == f"pliant {pliant.__version__}"


def test_new_task_writes_a_file_and_says_how_to_go_on(tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    result = runner.invoke(app, ["new-task", str(path)])
    assert result.exit_code == 0
    assert path.is_file()
    assert f"pliant run {path} --out runs/mine --quick" in result.output
    spaced = runner.invoke(app, ["new-task", str(tmp_path / "my own.py")])
    assert f"pliant run '{tmp_path}/my own.py' --out 'runs/my own' --quick" in spaced.output
    again = runner.invoke(app, ["new-task", str(path)])
    assert again.exit_code == 2
    assert "exists already" in again.stderr


def test_an_error_is_one_clear_message() -> None:
    result = runner.invoke(app, ["analyze", "digit"])
    assert result.exit_code == 2
    assert result.stderr.strip() == (
        "error: there is no task named 'digit'; did you mean 'digits'? (known: charlm, digits)"
    )
    assert result.stdout == ""


def test_debug_shows_the_error_itself() -> None:
    result = runner.invoke(app, ["--debug", "analyze", "digit"])
    assert isinstance(result.exception, PliantError)


def test_an_error_of_our_own_is_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> Any:
        raise RuntimeError("a bug")

    monkeypatch.setattr(running, "pipeline", broken)
    result = runner.invoke(app, ["run", "digits", "--out", "x"])
    assert isinstance(result.exception, RuntimeError)


def test_report_is_written_again_from_stored_numbers(tmp_path: Path) -> None:
    save(sample(), tmp_path / "report.json")
    result = runner.invoke(app, ["report", str(tmp_path)])
    assert result.exit_code == 0
    assert "4.3× faster" in (tmp_path / "report.html").read_text(encoding="utf-8")
    (tmp_path / "report.json").write_text("{")
    result = runner.invoke(app, ["report", str(tmp_path)])
    assert result.exit_code == 2
    assert "is not a report's data" in result.stderr


def test_systems_lists_the_catalogue() -> None:
    result = runner.invoke(app, ["systems", "--kind", "search"])
    assert result.exit_code == 0
    for name in pliant.catalog.names("search"):
        assert name.replace("_", "") in result.output.lower()
    wrong = runner.invoke(app, ["systems", "--kind", "serch"])
    assert wrong.exit_code == 2
    assert "did you mean 'search'" in wrong.stderr


def test_wrong_options_are_refused_before_anything_starts() -> None:
    for options in (["--steps", "0"], ["--budget", "0"], ["--threads", "0"], ["--seed", "x"]):
        assert runner.invoke(app, ["run", "digits", "--out", "x", *options]).exit_code == 2


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[tuple[Any, ...], dict[str, Any]]]:
    """Stand in for the run pipeline: note the call, send a few events, give the sample's data."""
    noted: list[tuple[tuple[Any, ...], dict[str, Any]]] = []

    def run(*args: Any, events: Any, **kwargs: Any) -> Any:
        noted.append((args, kwargs))
        events.phase("training", total=10)
        events.step(10, loss=0.3141)
        events.phase("search")
        events.note("12 members of 90 outside a constraint")
        return SimpleNamespace(data=sample(), report=Path("runs/x/report.html"))

    monkeypatch.setattr(running, "pipeline", lambda: SimpleNamespace(run=run))
    return noted


def test_run_passes_what_was_asked_and_shows_what_came(calls: list[Any]) -> None:
    asked = ["--quick", "--steps", "20", "--choices", "width, depth", "--constraint", "macs <= 1e6", "--seed", "3"]
    asked += ["--recipe", "sandwich", "--lr", "2e-3"]
    result = runner.invoke(app, ["run", "digits", "--out", "runs/x", *asked])
    assert result.exit_code == 0
    (args, kwargs) = calls[0]
    assert args == ("digits", Path("runs/x"))
    assert kwargs == {
        "quick": True,
        "steps": 20,
        "budget": None,
        "seed": 3,
        "choices": ("width, depth",),
        "constraints": ("macs <= 1e6",),
        "recipe": "sandwich",
        "lr": 0.002,
        "threads": 1,
    }
    for expected in (
        "training",
        "loss 0.314",
        "12 members of 90",
        "A member 4.3× faster at +1.39 points of error",
        "3.31 ms",
        "m71 is not recommended: at 3.36 ms",
        "report: runs/x/report.html",
    ):
        assert expected in result.output


def test_ctrl_c_says_how_to_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: Any, events: Any, **__: Any) -> Any:
        events.phase("training", total=10)
        raise KeyboardInterrupt

    monkeypatch.setattr(running, "pipeline", lambda: SimpleNamespace(run=interrupted))
    monkeypatch.setattr(sys, "argv", ["pliant", "run", "my task.py", "--out", "runs/x"])
    result = runner.invoke(app, ["run", "my task.py", "--out", "runs/x"])
    assert result.exit_code == 130
    assert "pliant run 'my task.py' --out runs/x" in result.stderr


def test_ctrl_c_in_a_search_says_how_to_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(run: Path, events: Any, **asked: Any) -> Any:
        assert (asked["budget"], asked["workers"], asked["constraints"]) == (9, 3, None)
        raise KeyboardInterrupt

    monkeypatch.setattr(searching, "pipeline", lambda: SimpleNamespace(search=interrupted))
    monkeypatch.setattr(sys, "argv", ["pliant", "search", "runs/x", "--budget", "9", "--workers", "3"])
    result = runner.invoke(app, ["search", "runs/x", "--budget", "9", "--workers", "3"])
    assert result.exit_code == 130
    assert "pliant search runs/x --budget 9 --workers 3" in result.stderr


def test_a_full_disk_and_a_read_only_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    for number, said in ((28, "the disk is full"), (30, "read-only"), (13, "permission denied")):

        def fails(*_: Any, number: int = number, **__: Any) -> Any:
            raise OSError(number, "text of the system", "runs/x/family.safetensors")

        monkeypatch.setattr(running, "pipeline", lambda fails=fails: SimpleNamespace(run=fails))
        result = runner.invoke(app, ["run", "digits", "--out", "runs/x"])
        assert result.exit_code == 2
        assert said in result.stderr
        assert "runs/x/family.safetensors" in result.stderr


def test_export_wants_the_suffix_of_its_format(monkeypatch: pytest.MonkeyPatch) -> None:
    result = runner.invoke(app, ["export", "runs/x", "--member", "m1", "--format", "pt2", "--out", "net.onnx"])
    assert result.exit_code == 2
    assert "write net.pt2" in result.stderr

    artefact = sample().members[1].artefacts[0]
    monkeypatch.setattr(running, "pipeline", lambda: SimpleNamespace(export=lambda run, member, out: artefact))
    result = runner.invoke(app, ["export", "runs/x", "--member", "m17", "--out", "net.onnx"])
    assert result.exit_code == 0
    assert "onnxruntime.InferenceSession" in result.output
    assert "differs from the member by at most 9.5e-07" in result.output


def test_export_takes_its_format_from_the_suffix(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []
    artefact = sample().members[1].artefacts[0]

    def made(run: Path, member: str, out: Path) -> Any:
        asked.append(out)
        return artefact

    monkeypatch.setattr(running, "pipeline", lambda: SimpleNamespace(export=made))
    assert runner.invoke(app, ["export", "runs/x", "--member", "m1", "--out", "net.pt2"]).exit_code == 0
    assert asked == [Path("net.pt2")]


def test_a_remark_is_a_line_without_a_place_in_the_code(monkeypatch: pytest.MonkeyPatch) -> None:
    def remarking(*_: Any, **__: Any) -> Any:
        with warnings.catch_warnings():
            warnings.simplefilter("always")
            warnings.warn("nothing to bend", NoEffectWarning, stacklevel=1)
        raise PliantError("enough")

    monkeypatch.setattr(running, "pipeline", lambda: SimpleNamespace(run=remarking))
    result = runner.invoke(app, ["run", "digits", "--out", "runs/x"])
    assert result.stderr == "note: nothing to bend\nerror: enough\n"
