"""Optuna's own tools on our studies."""

from __future__ import annotations

import io
import json
import warnings
from pathlib import Path
from typing import Any

import pytest

from pliant.space import Choice, Config, Space
from pliant.study import Study, search
from pliant.study.encoding import distributions, from_params
from pliant.techniques.search.nsga2 import Nsga2
from tests.study.toy import Member, Toy, cost, error, objectives

SMALL = Nsga2(population=8)


class Mixed(Toy):
    """Options that Optuna cannot hold as they are."""

    def __init__(self) -> None:
        super().__init__(choices=3)
        shapes = Choice("layer.kernel", ((3,), (3, 3), (3, (5, 7))), ordered=False)
        self.space = Space([*self.space.choices, shapes])

    def ready(self, config: Config) -> Member:
        self.built.append(config)
        plain = {name: option for name, option in config.items() if name != "layer.kernel"}
        size = len(config["layer.kernel"])  # type: ignore[arg-type]
        return Member(Config({**plain, "layer.3": size}))


@pytest.mark.slow
@pytest.mark.parametrize("sampler", ["TPESampler", "NSGAIISampler", "RandomSampler"])
def test_its_samplers_add_trials_that_the_next_search_is_told(sampler: str, tmp_path: Path) -> None:
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    path, toy = tmp_path / "s.db", Mixed()
    search(toy, objectives(), 12, searcher=SMALL, storage=path)
    storage = optuna.storages.RDBStorage(f"sqlite:///{path}")
    made = getattr(optuna.samplers, sampler)(seed=0)
    theirs = optuna.load_study(study_name="pliant", storage=storage, sampler=made)

    def evaluate(trial: Any) -> tuple[float, float]:
        params = {
            name: trial.suggest_categorical(name, each.choices) for name, each in distributions(toy.space).items()
        }
        member = toy.ready(from_params(toy.space, params))
        return error(member), cost(member)

    theirs.optimize(evaluate, n_trials=5)
    storage.remove_session()
    storage.engine.dispose()
    stored = Study.load(path)
    assert len(stored.trials) == 17
    assert all(set(trial.values) == {"error", "cost"} for trial in stored.trials)
    known = {trial.config for trial in stored.trials}
    toy.built.clear()
    study = search(toy, objectives(), len(known) + 6, searcher=SMALL, storage=path)
    assert len(toy.built) == 6
    assert not set(toy.built) & known
    assert {trial.number for trial in study.front} == {
        trial.number for trial in study.trials if all(_no_better(other, trial) for other in study.trials)
    }


def _no_better(other: Any, trial: Any) -> bool:
    ours, theirs = tuple(trial.values.values()), tuple(other.values.values())
    return not (theirs != ours and all(a <= b for a, b in zip(theirs, ours, strict=True)))


@pytest.mark.slow
def test_its_dashboard_shows_them(tmp_path: Path) -> None:
    import optuna

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import optuna_dashboard
    path = tmp_path / "s.db"
    study = search(Mixed(), objectives(), 8, searcher=SMALL, storage=path, constraints=["cost <= 40"], remeasure=2)
    storage = optuna.storages.RDBStorage(f"sqlite:///{path}")
    application = optuna_dashboard.wsgi(storage)

    def get(address: str) -> Any:
        status: list[str] = []
        place, _, query = address.partition("?")
        environment: dict[str, Any] = {"REQUEST_METHOD": "GET", "PATH_INFO": place, "QUERY_STRING": query}
        environment |= {"wsgi.input": io.BytesIO(), "CONTENT_LENGTH": "0"}
        body = b"".join(application(environment, lambda line, *_: status.append(line)))
        assert status[0].startswith("200"), (status, body)
        return json.loads(body)

    (listed,) = get("/api/studies")["study_summaries"]
    assert listed["study_name"] == "pliant"
    details = get(f"/api/studies/{listed['study_id']}?after=0")
    rows = details["trials"]
    assert len(rows) == sum(trial.times for trial in study.trials) > 8
    shown = {(tuple(row["values"]), row["state"]) for row in rows}
    assert {(tuple(trial.values.values()), "Complete") for trial in study.trials if trial.times == 1} <= shown
    storage.remove_session()
    storage.engine.dispose()
