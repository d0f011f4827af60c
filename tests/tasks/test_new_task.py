"""The template: written whole, never over a file, and it runs as it is."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
import torch

from pliant.tasks import TaskError, check, load_task, new_task


def test_the_template_runs_as_it_is(tmp_path: Path) -> None:
    path = new_task(tmp_path / "my_task")
    assert path == tmp_path / "my_task.py"
    assert [entry.name for entry in tmp_path.iterdir()] == ["my_task.py"]
    assert "pliant analyze my_task.py" in path.read_text()
    assert "import pliant" not in path.read_text()
    task = load_task(path)
    check(task)
    net = task.model()
    optimiser = torch.optim.AdamW(net.parameters(), lr=float(task.settings["lr"]))
    for inputs, targets in itertools.islice(task.batches(0), 60):
        optimiser.zero_grad()
        task.loss(net(inputs), targets).backward()
        optimiser.step()
    assert task.evaluate(net, "test")["error"] < 15.0
    later = next(task.batches(7, start=3))[1]
    assert torch.equal(later, next(itertools.islice(task.batches(7), 3, None))[1])


def test_its_commands_can_be_pasted_whatever_the_name(tmp_path: Path) -> None:
    path = new_task(tmp_path / "mein erstes")
    assert "pliant analyze 'mein erstes.py'" in path.read_text()


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text("precious")
    with pytest.raises(TaskError, match="exists already"):
        new_task(path)
    assert path.read_text() == "precious"


def test_paths_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(TaskError, match="there is no folder"):
        new_task(tmp_path / "nowhere" / "mine.py")
    with pytest.raises(TaskError, match="is a folder"):
        new_task(tmp_path)
    with pytest.raises(TaskError, match=r"write .*mine\.py instead"):
        new_task(tmp_path / "mine.txt")


def test_a_full_disk_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(TaskError, match="No space left on device"):
        new_task(tmp_path / "mine.py")
    assert list(tmp_path.iterdir()) == []
