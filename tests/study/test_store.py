"""Files that are not what they should be."""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy.exc
import torch
from torch import nn

from pliant.checks import CorruptFileError, PliantError
from pliant.measure import Latency, Metric, Objective
from pliant.study import Study, search
from pliant.study import doors as room
from pliant.study.plan import Plan
from pliant.study.store import Store
from pliant.techniques.search.nsga2 import Nsga2
from tests.study.toy import Toy, cost, error, objectives


@pytest.fixture(scope="module")
def content(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The file of a study of five trials."""
    path = tmp_path_factory.mktemp("study") / "s.db"
    search(Toy(), objectives(), 5, storage=path)
    return path.read_bytes()


@pytest.fixture
def path(content: bytes, tmp_path: Path) -> Path:
    """A study of five trials."""
    (tmp_path / "s.db").write_bytes(content)
    return tmp_path / "s.db"


def test_a_long_field_of_another_study_is_shortened(tmp_path: Path) -> None:
    metrics = objectives()
    search(Toy(), metrics, 3, storage=tmp_path / "s.db", constraints=[])
    many = [f"cost <= {number}" for number in range(1000, 1400)]
    with pytest.raises(PliantError, match="constraints is .*…") as caught:
        search(Toy(), metrics, 3, storage=tmp_path / "s.db", constraints=many)
    assert len(str(caught.value)) < 1500


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"family": Toy(choices=7)}, "space is .*7 choices"),
        ({"objectives": [Metric("error", error), Metric("latency", cost)]}, "objectives is .*latency"),
        ({"objectives": [Metric("error", error, unit="%"), Metric("cost", cost, "max")]}, "objectives"),
        ({"constraints": ["cost <= 3"]}, "constraints"),
        ({"seed": 1}, "seed is 0, yours 1"),
        ({"searcher": Nsga2(population=10)}, "searcher .*population=20.*population=10"),
    ],
)
def test_a_storage_of_another_study(change: dict[str, object], words: str, path: Path) -> None:
    before = path.read_bytes()
    arguments: dict[str, object] = {"family": Toy(), "objectives": objectives(), "budget": 5, "storage": path, **change}
    with pytest.raises(PliantError, match=f"another study.*{words}"):
        search(**arguments)  # type: ignore[arg-type]
    assert path.read_bytes() == before
    assert len(search(Toy(), objectives(), 6, storage=path).trials) == 6


def test_a_file_that_is_no_database(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("my notes, do not lose them")
    with pytest.raises(CorruptFileError, match="not a study file"):
        search(Toy(), objectives(), 5, storage=path)
    with pytest.raises(CorruptFileError, match="not a study file"):
        Study.load(path)
    assert path.read_text() == "my notes, do not lose them"


def test_another_programs_database(tmp_path: Path) -> None:
    path = tmp_path / "other.db"
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE recipes (name TEXT)")
        connection.commit()
    before = path.read_bytes()
    with pytest.raises(CorruptFileError, match="recipes"):
        search(Toy(), objectives(), 5, storage=path)
    assert path.read_bytes() == before


@pytest.mark.parametrize("where", [0.1, 0.5, 0.9])
def test_a_damaged_study(where: float, path: Path) -> None:
    damaged = bytearray(path.read_bytes())
    start = int(len(damaged) * where) // 4096 * 4096 or 4096
    damaged[start : start + 20000] = b"\xff" * 20000
    path.write_bytes(damaged)
    with pytest.raises(CorruptFileError, match="damaged"):
        search(Toy(), objectives(), 9, storage=path)
    assert path.read_bytes() == bytes(damaged)


def test_half_a_study(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:9000])
    with pytest.raises(CorruptFileError, match="damaged"):
        search(Toy(), objectives(), 9, storage=path)


def test_an_empty_file_becomes_a_study(tmp_path: Path) -> None:
    (tmp_path / "s.db").touch()
    assert len(search(Toy(), objectives(), 3, storage=tmp_path / "s.db").trials) == 3


@pytest.mark.slow
def test_a_study_of_optuna_alone(tmp_path: Path) -> None:
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    url = f"sqlite:///{tmp_path / 's.db'}"
    theirs = optuna.create_study(storage=url, study_name="theirs")
    theirs._storage._backend.engine.dispose()  # type: ignore[attr-defined]
    with pytest.raises(CorruptFileError, match="not a study of Pliant"):
        Study.load(tmp_path / "s.db")
    assert len(search(Toy(), objectives(), 3, storage=tmp_path / "s.db").trials) == 3  # beside it, under our own name


def test_killed_between_making_the_study_and_naming_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Killed(BaseException):
        pass

    def die(*_: object) -> None:
        raise Killed

    monkeypatch.setattr(Store, "_set_plan", die)
    with pytest.raises(Killed):
        search(Toy(), objectives(), 3, storage=tmp_path / "s.db")
    monkeypatch.undo()
    assert len(search(Toy(), objectives(), 3, storage=tmp_path / "s.db").trials) == 3


@pytest.mark.slow
def test_a_locked_database(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "LOCK_SECONDS", 0.1)
    with closing(sqlite3.connect(path)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(PliantError, match="locked by another program"):
            search(Toy(), objectives(), 9, storage=path)
        other.rollback()
    assert len(search(Toy(), objectives(), 9, storage=path).trials) == 9


def test_two_searches_into_one_file(path: Path) -> None:
    with Store.open(path), pytest.raises(PliantError, match="another process is searching"):
        search(Toy(), objectives(), 9, storage=path)
    assert len(search(Toy(), objectives(), 9, storage=path).trials) == 9


def test_a_disk_that_fills_up_loses_nothing(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> int:
        raise sqlalchemy.exc.OperationalError("INSERT", {}, sqlite3.OperationalError("database or disk is full"))

    monkeypatch.setattr("optuna.storages.RDBStorage.create_new_trial", full)
    with pytest.raises(PliantError, match=r"disk .* is full.*is kept"):
        search(Toy(), objectives(), 9, storage=path)
    monkeypatch.undo()
    assert len(Study.load(path).trials) == 5


def test_a_read_only_place(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if os.geteuid() == 0:  # root may write anywhere, so the answer of the system is played
        monkeypatch.setattr(os, "access", lambda place, mode: mode != os.W_OK)
    else:
        path.parent.chmod(0o500)
    try:
        with pytest.raises(PliantError, match="permission denied"):
            search(Toy(), objectives(), 9, storage=path)
        assert len(Study.load(path).trials) == 5
    finally:
        path.parent.chmod(0o700)


def test_a_folder_and_nothing(tmp_path: Path) -> None:
    with pytest.raises(PliantError, match=r"is a folder.*study\.db"):
        search(Toy(), objectives(), 5, storage=tmp_path)
    with pytest.raises(PliantError, match="there is no study file"):
        Study.load(tmp_path / "none.db")
    (tmp_path / "file").touch()
    with pytest.raises(PliantError, match="cannot make the folder"):
        search(Toy(), objectives(), 5, storage=tmp_path / "file" / "s.db")


@pytest.mark.parametrize("name", ["a?b.db", "a%20b.db", "{a}#b.db", "~nobody-of-that-name.db"])
def test_names_that_mean_something_in_a_url(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.chdir(tmp_path)
    search(Toy(), objectives(), 3, storage=name)
    assert sorted(each.name for each in tmp_path.iterdir()) == [name, f"{name}.lock"]
    assert len(Study.load(name).trials) == 3


def test_what_is_no_place_to_keep_a_study(tmp_path: Path) -> None:
    for memory in (":memory:", "sqlite:///:memory:", "sqlite://"):
        with pytest.raises(PliantError, match="storage=None"):
            search(Toy(), objectives(), 3, storage=memory)
    with pytest.raises(PliantError, match="a path or a URL, or None"):
        search(Toy(), objectives(), 3, storage=3)  # type: ignore[arg-type]
    (tmp_path / "s.db").touch()
    with pytest.raises(CorruptFileError, match="is empty"):
        Study.load(tmp_path / "s.db")
    assert not (tmp_path / "s.db").stat().st_size


def test_objectives_that_measure_otherwise_are_of_another_study(tmp_path: Path) -> None:
    def timed(**settings: Any) -> list[Objective]:
        return [Metric("error", error), Latency((torch.zeros(2, 3),), **settings)]

    path = tmp_path / "s.db"
    with Store.open(path) as store:
        store.claim(Plan.make(Toy().space, timed()).record())
    with Store.open(path) as store:
        store.claim(Plan.make(Toy().space, timed(reference=nn.Identity(), repeats=50)).record())
        with pytest.raises(PliantError, match=r"'threads': 1.*, yours .*'threads': 2"):
            store.claim(Plan.make(Toy().space, timed(threads=2)).record())
        with pytest.raises(PliantError, match=r"\[2, 3\].*, yours .*\[4, 3\]"):
            store.claim(Plan.make(Toy().space, [Metric("error", error), Latency((torch.zeros(4, 3),))]).record())
