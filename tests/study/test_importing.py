"""Results that were measured elsewhere."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from random import Random
from typing import Any

import pytest

from pliant.checks import CorruptFileError, PliantError, UnknownNameError, WrongShapeError
from pliant.measure import Metric
from pliant.space import Choice, Config, Space
from pliant.study import Study, import_results, search
from pliant.study.importing import read_results
from pliant.study.plan import Plan
from pliant.techniques.search.nsga2 import Nsga2
from pliant.techniques.search.random_search import RandomSearch
from tests.study.test_problem import Folded
from tests.study.toy import Member, Toy, cost, error, objectives

SPACE = Space(
    [
        Choice("width", (8, 16, 32)),
        Choice("ratio", (0.25, 0.5)),
        Choice("kernel", ((3,), (3, 5)), ordered=False),
        Choice("act", ("relu", "3", "gelu"), ordered=False),
        Choice("bias", (False, True)),
    ]
)
HEAD = "width,ratio,kernel,act,bias,error,cost"
PLAN = Plan.make(SPACE, objectives(), extras=[Metric("time", cost)]).record()


def written(folder: Path, text: str, name: str = "r.csv") -> Path:
    (folder / name).write_text(text, encoding="utf-8")
    return folder / name


def toys(folder: Path, count: int = 10, name: str = "toys.csv") -> tuple[Path, dict[Config, float]]:
    rng, space = Random(3), Toy().space
    configs = list({space.sample(rng): None for _ in range(count)})
    names = [choice.name for choice in space.choices]
    lines = [",".join([*names, "error", "cost"])]
    for config in configs:
        member = Member(config)
        lines.append(",".join(str(value) for value in [*(config[n] for n in names), error(member), cost(member)]))
    return written(folder, "\n".join(lines), name), {config: error(Member(config)) for config in configs}


def test_every_kind_of_option_is_read_from_text(tmp_path: Path) -> None:
    path = written(
        tmp_path,
        f'{HEAD},time\r\n16,0.5,"[3, 5]",3,true,1.5,2e1,\n\n8.0,.25,[3],relu,False, -3 ,7,0.5\n',
    )
    (first, one), (second, two) = read_results(path, PLAN)
    assert first == Config({"width": 16, "ratio": 0.5, "kernel": (3, 5), "act": "3", "bias": True})
    assert second == Config({"width": 8, "ratio": 0.25, "kernel": (3,), "act": "relu", "bias": False})
    assert {name: each.value for name, each in one.items()} == {"error": 1.5, "cost": 20.0}
    assert {name: each.value for name, each in two.items()} == {"error": -3.0, "cost": 7.0, "time": 0.5}
    assert one["error"].unit == "%"
    assert two["error"].details == {"imported": "r.csv", "row": "row 4"}


def test_json_flat_or_in_two_parts(tmp_path: Path) -> None:
    config = {"width": 16, "ratio": 0.5, "kernel": [3, 5], "act": "gelu", "bias": True}
    flat = {**config, "error": 1, "cost": 2.5}
    parted = {"config": {**config, "width": 8}, "values": {"error": 3, "cost": 4}}
    path = written(tmp_path, json.dumps([flat, parted]), "r.json")
    results = read_results(path, PLAN)
    assert [made["width"] for made, _ in results] == [16, 8]
    assert [found["cost"].value for _, found in results] == [2.5, 4.0]


@pytest.mark.parametrize(
    ("text", "kind", "said"),
    [
        ("", CorruptFileError, "is empty"),
        (f"{HEAD}\n16,0.5,[3],relu,true,1", WrongShapeError, "row 2: expected 7 cells.*got 6"),
        (f"{HEAD}\n16,0.5,[3],relu,true,1,x", WrongShapeError, "row 2, column 'cost': expected a finite.*'x'"),
        (f"{HEAD}\n16,0.5,[3],relu,true,1,nan", WrongShapeError, "row 2, column 'cost'.*'nan'"),
        (f"{HEAD}\n16,0.5,[3],relu,true,,1", WrongShapeError, "row 2: column 'error' is missing or empty"),
        (f"{HEAD}\n17,0.5,[3],relu,true,1,1", WrongShapeError, "row 2, column 'width': .*17; did you mean 16"),
        (f"{HEAD}\n16,0.5,[3],rely,true,1,1", WrongShapeError, "row 2, column 'act': .*did you mean 'relu'"),
        (f"{HEAD},eror\n16,0.5,[3],relu,true,1,1,2", UnknownNameError, "row 2, column.*'eror'; did you mean 'error'"),
        ("width,error,cost\n16,1,1", WrongShapeError, "row 2: column 'ratio' is missing"),
        (f"{HEAD},cost\n16,0.5,[3],relu,true,1,1,1", WrongShapeError, "two columns are named 'cost'"),
        (f"{HEAD}\n8,0.5,[3],3,true,1,1\n8,0.5,[3],3,true,1,2", WrongShapeError, "row 3 has the config of row 2"),
    ],
)
def test_what_is_wrong_with_a_row_is_said(text: str, kind: type[Exception], said: str, tmp_path: Path) -> None:
    with pytest.raises(kind, match=said):
        read_results(written(tmp_path, text), PLAN)


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("r.json", "{", "is not JSON"),
        ("r.json", "{}", "expected a list of results, got dict"),
        ("r.json", "[3]", "row 1: expected an object"),
        ("r.txt", "a", "a .csv or .json file"),
        ("none", None, "cannot read the results"),
    ],
)
def test_what_is_wrong_with_a_file_is_said(name: str, text: str | None, said: str, tmp_path: Path) -> None:
    path = tmp_path / name if text is None else written(tmp_path, text, name)
    with pytest.raises(PliantError, match=said):
        read_results(path, PLAN)


def test_a_constraint_needs_its_value(tmp_path: Path) -> None:
    plan = Plan.make(SPACE, objectives(), extras=[Metric("time", cost)], constraints=["time <= 3"]).record()
    with pytest.raises(WrongShapeError, match="column 'time' is missing"):
        read_results(written(tmp_path, f"{HEAD}\n16,0.5,[3],relu,true,1,1"), plan)


@pytest.mark.slow
def test_imported_results_are_known_told_and_outside_the_budget(tmp_path: Path) -> None:
    path, known = toys(tmp_path)
    toy = Toy()
    study = search(toy, objectives(), 15, storage=tmp_path / "s.db", results=path, searcher=Nsga2(population=8))
    assert len(toy.built) == 15
    assert not set(toy.built) & set(known)
    imported = [trial for trial in study.trials if trial.imported]
    assert {trial.config: trial.values["error"] for trial in imported} == known
    assert {trial.imported for trial in imported} == {"toys.csv"}
    assert study.trials[:10] == imported
    plain = search(Toy(), objectives(), 15, searcher=Nsga2(population=8))
    assert [t.config for t in study.trials[10:]] != [t.config for t in plain.trials], "the searcher was not told"


@pytest.mark.slow
def test_a_search_with_imported_results_goes_on_after_a_kill(tmp_path: Path) -> None:
    path, _ = toys(tmp_path)
    options: dict[str, Any] = {"results": path, "searcher": Nsga2(population=8)}
    whole = search(Toy(), objectives(), 20, **options)
    search(Toy(), objectives(), 7, storage=tmp_path / "s.db", **options)
    toy = Toy()
    study = search(toy, objectives(), 20, storage=tmp_path / "s.db", **options)
    assert [(t.config, t.values) for t in study.trials] == [(t.config, t.values) for t in whole.trials]
    assert len(toy.built) == 13


@pytest.mark.slow
def test_results_into_a_study_that_is_there(tmp_path: Path) -> None:
    storage = tmp_path / "s.db"
    with pytest.raises(PliantError, match="there is no study file"):
        import_results(storage, toys(tmp_path)[0])
    first = search(Toy(), objectives(), 8, storage=storage)
    path, known = toys(tmp_path)
    lines = path.read_text().splitlines()
    (tmp_path / "bad.csv").write_text("\n".join([*lines[:5], "1,2,3,4,5,9,1,1"]))
    with pytest.raises(WrongShapeError, match="row 6, column 'layer.5'"):
        import_results(storage, tmp_path / "bad.csv")
    assert len(Study.load(storage).trials) == 8, "a bad file was taken in part"
    new = len(set(known) - {trial.config for trial in first.trials})
    assert import_results(storage, path) == new > 0
    assert import_results(storage, path) == 0
    study = search(Toy(), objectives(), 12, storage=storage)
    assert len(study.trials) == 12 + new


def test_configs_of_one_network_count_once(tmp_path: Path) -> None:
    family = Folded(choices=2)
    path = written(tmp_path, "layer.0,layer.1,error,cost\n1,3,0.5,1\n2,3,0.5,1\n2,4,0.4,2")
    study = search(family, objectives(), 50, results=path, searcher=RandomSearch())
    assert sum(bool(trial.imported) for trial in study.trials) == 2
    assert len(study.trials) == 5


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_a_table_as_other_programs_write_it(tmp_path: Path, delimiter: str) -> None:
    space = Space([*SPACE.choices, Choice("fixed", (7,))])
    plan = Plan.make(space, objectives()).record()
    config: dict[str, Any] = {"width": 16, "ratio": 0.5, "kernel": (3, 5), "act": "3", "bias": True}
    with (tmp_path / "r.csv").open("w", encoding="utf-8-sig", newline="") as file:
        writer = csv.writer(file, delimiter=delimiter)
        writer.writerow([*config, "error", "cost"])
        writer.writerow([*config.values(), 1.5, 2])  # a tuple as Python writes it
    [(found, measured)] = read_results(tmp_path / "r.csv", plan)
    assert found == Config({**config, "fixed": 7})
    assert {name: each.value for name, each in measured.items()} == {"error": 1.5, "cost": 2}


def test_a_file_that_is_not_utf_8(tmp_path: Path) -> None:
    (tmp_path / "r.csv").write_text(HEAD, encoding="utf-16")
    with pytest.raises(CorruptFileError, match="save it as UTF-8"):
        read_results(tmp_path / "r.csv", PLAN)
