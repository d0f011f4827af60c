"""Several searches on one PostgreSQL study, and a server that goes away."""

from __future__ import annotations

import signal
import threading
import time
from pathlib import Path
from random import Random
from typing import Any

import pytest
from torch import nn

from pliant.checks import PliantError
from pliant.study import Study, Trial, claims, import_results, patience, search
from pliant.study.claims import Claims
from pliant.study.store import Store
from pliant.techniques.search.nsga2 import Nsga2
from pliant.techniques.search.random_search import RandomSearch
from tests.helpers.nursery import Child, Nursery
from tests.study.postgres import Server
from tests.study.toy import Toy, cost, error, objectives

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]


def outcome(study: Study) -> list[Any]:
    return [(trial.config, dict(trial.values), trial.state) for trial in study.trials]


def once(study: Study, count: int) -> None:
    """Check that ``count`` configs were measured, each once."""
    rows = study.optuna.get_trials(deepcopy=False)
    study.optuna._storage._backend.engine.dispose()
    done = [tuple(sorted(row.params.items())) for row in rows if row.state.name == "COMPLETE"]
    assert len(done) == len(set(done)) == count
    assert len(study.trials) == count
    assert not [row for row in rows if row.state.name == "RUNNING"]


def test_alone_on_a_server_it_is_as_in_a_file(server: Server) -> None:
    whole = search(Toy(), objectives(), 25, searcher=Nsga2(population=8))
    search(Toy(), objectives(), 10, searcher=Nsga2(population=8), storage=server.url("alone"))
    toy = Toy()
    study = search(toy, objectives(), 25, searcher=Nsga2(population=8), storage=server.url("alone"))
    assert outcome(study) == outcome(whole)
    assert len(toy.built) == 15
    assert outcome(Study.load(server.url("alone"))) == outcome(whole)
    once(study, 25)


def test_searches_that_share_a_study_measure_nothing_twice(server: Server) -> None:
    """Threads stand for processes: each has a storage, claims and a searcher of its own."""
    built: list[list[Any]] = [[], [], []]
    studies: list[Study | None] = [None, None, None]
    told: list[list[Trial]] = [[], [], []]

    def run(place: int) -> None:
        toy = Toy(choices=3)

        def slowly(member: nn.Module) -> float:
            time.sleep(0.03)
            return error(member)

        toy.built = built[place]
        studies[place] = search(
            toy,
            objectives(slowly),
            40,
            searcher=Nsga2(population=8),
            storage=server.url("shared"),
            on_trial=told[place].append,
        )

    threads = [threading.Thread(target=run, args=(place,)) for place in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    everything = [config for each in built for config in each]
    assert len(everything) == len(set(everything)) == 40
    assert all(each for each in built), "one did all the work"
    for study in studies:
        assert study is not None
        once(study, 40)
    assert [len(each) for each in told] == [len(each) for each in built]


def test_a_small_space_shared_ends_for_all(server: Server) -> None:
    notes = []

    def run() -> None:
        toy = Toy(choices=2, options=4)
        notes.append(search(toy, objectives(), 50, searcher=RandomSearch(), storage=server.url("small")).note)

    threads = [threading.Thread(target=run) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(notes) == 2
    assert all("exhausted" in note for note in notes)
    once(Study.load(server.url("small")), 16)


def test_searches_killed_at_random_moments_lose_and_repeat_nothing(
    server: Server, nursery: Nursery, tmp_path: Path, rng: Random
) -> None:
    url = server.url("killed")
    search(Toy(), objectives(), 2, storage=url)

    def start(name: str) -> Child:
        code = "from tests.study.killed_search import main; main()"
        return nursery.start(code, url, "50", "0.1", cwd=ROOT, log=tmp_path / name)

    steady, kept = start("steady"), 2
    try:
        for number in range(3):
            victim = start(f"victim{number}")
            assert not victim.wait(0.4 + rng.random()), victim.remarks
            victim.send(signal.SIGKILL)
            assert victim.wait(60)
            trials = len(Study.load(url).trials)
            assert trials >= kept, "something measured was lost"
            kept = trials
        assert steady.wait(120)
    finally:
        steady.send(signal.SIGKILL)
    assert steady.code == 0, steady.remarks
    once(Study.load(url), 50)


def test_the_claim_of_a_search_elsewhere_that_fell_silent_is_taken_over(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(claims, "GRACE_SECONDS", 2.0)
    search(Toy(), objectives(), 5, storage=server.url("silent"), searcher=Nsga2(population=8))
    with Store.open(server.url("silent")) as store:
        plan = {key: value for key, value in store_plan(server, "silent").items() if key != "format"}
        store.claim(plan)
        assert store.claims is not None
        store.claims._stop.set()  # it claims a config, and is never heard of again
        other = Toy().space.sample(Random(5))
        assert store.claims.take(other.key, other.to_json(), limit=99) == "ours"
        row = store.begin(other, key=other.key)
        study = search(Toy(), objectives(), 12, storage=server.url("silent"), searcher=Nsga2(population=8))
        assert other in {trial.config for trial in study.trials}
        once(study, 12)
        # and when it speaks again, it is not heard
        records = {each.name: each.measure(Toy().ready(other)) for each in objectives()}
        assert store.finish(row, records, 5) is False
    once(Study.load(server.url("silent")), 12)


def store_plan(server: Server, name: str) -> dict[str, Any]:
    with Store.open(server.url(name), create=False) as store:
        return dict(store.plan())


def test_a_claim_is_one_searchs_and_the_budget_is_for_all(server: Server) -> None:
    search(Toy(), objectives(), 3, storage=server.url("claims"))
    plan = {key: value for key, value in store_plan(server, "claims").items() if key != "format"}
    with Store.open(server.url("claims")) as one, Store.open(server.url("claims")) as two:
        one.claim(plan)
        two.claim(plan)
        first, second = one.claims, two.claims
        assert isinstance(first, Claims)
        assert isinstance(second, Claims)
        assert first.others() == 1
        assert first.take("a", "{}", limit=5) == "ours"
        assert first.take("a", "{}", limit=5) == "ours"  # the answer to the first may have been lost
        assert second.take("a", "{}", limit=5) == "held"
        assert second.take("b", "{}", limit=5) == "ours"
        assert second.take("c", "{}", limit=5) == "full"
        assert second.take("a#1", "{}", repeat=1, limit=5) == "ours"  # repeats are outside the budget
        first.drop("a")
        assert second.take("a", "{}", limit=5) == "ours"
        assert not any(claim.orphaned for claim in first.foreign())
        assert {claim.key for claim in first.foreign()} == {"a", "b", "a#1"}
        for key in ("a", "b", "a#1"):
            second.drop(key)


def test_a_server_that_restarts_loses_nothing(server: Server) -> None:
    """It is killed and started again in the middle of measuring, twice."""
    moments = iter([8, 20])
    following = next(moments)
    count = 0

    def interrupting(member: nn.Module) -> float:
        nonlocal count, following
        count += 1
        if count == following:
            following = next(moments, -1)
            server.stop()
            threading.Timer(1.0, server.start).start()
        return error(member)

    study = search(Toy(), objectives(interrupting), 30, storage=server.url("restart"), searcher=Nsga2(population=8))
    assert count == 30, "something was measured twice"
    once(study, 30)
    assert outcome(study) == outcome(search(Toy(), objectives(), 30, searcher=Nsga2(population=8)))


def test_a_server_that_stays_away_is_said(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patience, "RETRY_SECONDS", 1.0)

    def stopping(member: nn.Module) -> float:
        if cost(member) > 30:
            server.stop()
        return error(member)

    with pytest.raises(PliantError, match=r"did not answer for 1 s.*is kept.*run the same again"):
        search(Toy(), objectives(stopping), 30, storage=server.url("away"))
    with pytest.raises(PliantError, match="cannot connect to .*is the server running") as caught:
        search(Toy(), objectives(), 30, storage=server.url("away"))
    assert "secret" not in str(caught.value)
    server.start()
    once(search(Toy(), objectives(), 30, storage=server.url("away")), 30)


def test_what_is_wrong_with_a_url(server: Server) -> None:
    with pytest.raises(PliantError, match="cannot connect.*nowhere"):
        search(Toy(), objectives(), 3, storage=server.url("x").replace("/postgres#", "/nowhere#"))
    with pytest.raises(PliantError, match="no study|not a study"):
        Study.load(server.url("never made"))
    search(Toy(), objectives(), 3, storage=server.url("one"))
    with pytest.raises(PliantError, match="another study.*space") as caught:
        search(Toy(choices=3), objectives(), 3, storage=server.url("one"))
    assert "secret" not in str(caught.value)


def test_repeats_and_results_from_elsewhere_on_a_server(server: Server, tmp_path: Path) -> None:
    url = server.url("repeats")
    known = Toy().space.sample(Random(1))
    names = list(known)
    lines = [",".join([*names, "error", "cost"]), ",".join([*(str(known[name]) for name in names), "0.001", "200"])]
    (tmp_path / "r.csv").write_text("\n".join(lines))
    search(Toy(), objectives(), 4, storage=url, searcher=Nsga2(population=8))
    assert import_results(url, tmp_path / "r.csv") == 1
    toy = Toy()
    study = search(toy, objectives(), 10, storage=url, remeasure=2, searcher=Nsga2(population=8))
    assert sum(not trial.imported for trial in study.trials) == 10
    assert all(trial.times >= 2 for trial in study.front)
    assert len(study.trials) == 11
