"""The folder of a run: claimed once, gone on with by the same arguments, and never written over."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from pliant.checks import CorruptFileError, PliantError
from pliant.runs.folder import RunFolder

ASKED = {"task": "digits:vit", "seed": 0, "budget": 20, "choices": ["width"], "constraints": []}


def begun(path: Path) -> RunFolder:
    folder = RunFolder.claim(path, ASKED)
    with folder.timed("dry run"):
        pass
    return folder


def test_a_new_folder_is_claimed_and_gone_on_with(tmp_path: Path) -> None:
    folder = begun(tmp_path / "a" / "b")
    again = RunFolder.claim(folder.path, {**ASKED, "budget": 50, "choices": ("width",)})
    assert again.done("dry run")
    assert not again.done("training")
    assert again.record["asked"]["budget"] == 50
    assert again.record["created"] == folder.record["created"]
    assert RunFolder.open(folder.path).record == again.record


def test_an_empty_folder_will_do(tmp_path: Path) -> None:
    assert RunFolder.claim(tmp_path, ASKED).path == tmp_path


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"seed": 1}, "seed was 0, is now 1"),
        ({"choices": ["width", "depth"]}, r"choices was \['width'\], is now \['width', 'depth'\]"),
        ({"task": "charlm", "seed": 2}, "task was 'digits:vit', is now 'charlm'; seed was 0, is now 2"),
    ],
)
def test_another_runs_folder_is_refused(tmp_path: Path, change: dict[str, Any], text: str) -> None:
    folder = begun(tmp_path)
    before = (tmp_path / "run.json").read_text()
    with pytest.raises(PliantError, match=f"holds another run: {text}. Give the same arguments"):
        RunFolder.claim(folder.path, {**ASKED, **change})
    assert (tmp_path / "run.json").read_text() == before


def test_a_task_is_the_same_wherever_it_is_named_from(tmp_path: Path) -> None:
    asked = {**ASKED, "task": "/old/mine.py", "digest": "a"}
    with RunFolder.claim(tmp_path, asked).timed("dry run"):
        pass
    moved = RunFolder.claim(tmp_path, {**asked, "task": "/new/mine.py"})
    assert moved.record["asked"]["task"] == "/new/mine.py"
    with pytest.raises(PliantError, match="another run: task was '/new/mine.py', is now '/x.py'. Give"):
        RunFolder.claim(tmp_path, {**asked, "task": "/x.py", "digest": "b"})
    with pytest.raises(PliantError, match="another run: the task's file has changed since. Give"):
        RunFolder.claim(tmp_path, {**asked, "task": "/new/mine.py", "digest": "b"})


def test_a_run_that_made_nothing_does_not_hold_the_folder(tmp_path: Path) -> None:
    RunFolder.claim(tmp_path, ASKED)  # its dry run found a mistake in the arguments
    folder = RunFolder.claim(tmp_path, {**ASKED, "seed": 1})
    assert folder.record["asked"]["seed"] == 1


def test_foreign_files_are_not_touched(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(PliantError, match="holds files that are not of a run; give --out a new or an empty folder"):
        RunFolder.claim(tmp_path, ASKED)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]
    with pytest.raises(PliantError, match=r"thesis\.tex is a file; give --out a folder"):
        RunFolder.claim(tmp_path / "thesis.tex", ASKED)


def test_what_a_kill_left_while_claiming_is_no_foreign_file(tmp_path: Path) -> None:
    (tmp_path / ".run.4711.tmp.json").write_text("{")
    assert RunFolder.claim(tmp_path, ASKED).record["asked"] == ASKED


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ('{"format": 1, "asked"', "is damaged"),
        ("", "is damaged"),
        ("[]", "is damaged"),
        ('{"format": 1}', "is damaged .*'asked'"),
        ('{"format": 2, "asked": {}, "stages": {}, "created": ""}', "run.json has format 2, this version of Pliant"),
    ],
)
def test_a_damaged_record_gets_one_clear_error(tmp_path: Path, content: str, text: str) -> None:
    begun(tmp_path)
    (tmp_path / "run.json").write_text(content)
    for act in (lambda: RunFolder.open(tmp_path), lambda: RunFolder.claim(tmp_path, ASKED)):
        with pytest.raises(CorruptFileError, match=text) as caught:
            act()
        assert not ("has format" in str(caught.value) and "is damaged" in str(caught.value))
    assert (tmp_path / "run.json").read_text() == content


def test_a_folder_without_a_run_cannot_be_opened(tmp_path: Path) -> None:
    with pytest.raises(CorruptFileError, match=r"there is no run in .*run\.json is missing"):
        RunFolder.open(tmp_path)


@pytest.mark.parametrize("number", [13, 28, 30])
def test_a_folder_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    def refused(*_: Any, **__: Any) -> Any:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(Path, "write_text", refused)  # root may write everywhere, so the refusal is simulated
    with pytest.raises(PliantError, match=r"no space left on|cannot write .*run\.json"):
        RunFolder.claim(tmp_path / "new", ASKED)
    assert not list(tmp_path.rglob("*.*"))


def test_times_add_up_over_calls_and_a_failure_is_not_done(tmp_path: Path) -> None:
    folder = RunFolder.claim(tmp_path, ASKED)

    def fails() -> None:
        with folder.timed("search"):
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fails()
    assert not folder.done("search")
    first = folder.record["seconds"]["search"]
    with folder.timed("search"):
        pass
    stored = json.loads((tmp_path / "run.json").read_text())
    assert stored["seconds"]["search"] >= first
    assert "search" in stored["stages"]
