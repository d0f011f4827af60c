"""LLMatic's archive: niches that only improve, prompts that earn their use, and answers from elsewhere."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from random import Random
from typing import Any

import numpy as np
import pytest

from pliant.checks import MissingExtraError, UnknownNameError, WrongShapeError
from pliant.space import Choice, Config, Option, Problem, Space
from pliant.techniques.search.map_elites import RULES, MapElites, Prompt, obey
from pliant.techniques.search.random_search import RandomSearch
from tests.techniques.search.table import Table, draws, drive

pytest.importorskip("ribs")


def test_a_cell_keeps_the_best_of_its_niche_and_never_gets_worse() -> None:
    table = Table(8, 4)
    proposer = MapElites(cells=(6, 4)).start(table.problem())
    best: dict[int, float] = {}
    for _ in range(120):
        [config] = drive(proposer, 1, table.values)
        archive = proposer.archive  # type: ignore[attr-defined]
        cell = int(archive.index_of(proposer.kind([config]))[0])  # type: ignore[attr-defined]
        best[cell] = max(best.get(cell, -math.inf), -table.values([config])[0, 0])
        data = archive.data()
        assert dict(zip(data["index"].tolist(), data["objective"].tolist(), strict=True)) == pytest.approx(best)
    for config in proposer.elites:  # type: ignore[attr-defined]
        assert -table.values([config])[0, 0] in best.values()


@pytest.mark.slow
def test_covers_more_and_better_than_random_search_at_equal_evaluations() -> None:
    table = Table(12, 4)
    settings = MapElites(cells=(8, 8))

    def archived(configs: list[Config]) -> Any:
        made = settings.illuminate(table.problem(), obey)
        for config in configs:
            made.tell(config, table.values([config])[0].tolist())
        return made.archive

    for seed in range(2):
        found = archived(drive(settings.start(table.problem(seed)), 250, table.values))
        drawn = archived(drive(RandomSearch().start(table.problem(seed)), 250, table.values))
        assert found.stats.coverage > drawn.stats.coverage
        worst = min(found.data("objective").min(), drawn.data("objective").min())
        score, random = ((each.data("objective") - worst).sum() for each in (found, drawn))
        assert score > random


def test_every_rule_does_as_it_says() -> None:
    table = Table(20, 4)
    small, large = (table.space.check(dict.fromkeys([c.name for c in table.space.choices], at)) for at in (1, 2))

    def answers(rule: str) -> np.ndarray:
        prompts = [Prompt(table.space, (small, large), rule, 0.3, Random(seed)) for seed in range(40)]
        return table.space.indices([obey(prompt) for prompt in prompts])

    assert (answers("grow") >= 1).all()
    assert answers("grow").mean() == pytest.approx(1.3, abs=0.05)
    assert (answers("shrink") <= 1).all()
    assert set(np.unique(answers("nudge"))) == {0, 1, 2}
    assert set(np.unique(answers("change"))) == {0, 1, 2, 3}
    assert answers("cross").mean() == pytest.approx(1.5, abs=0.1)
    ends = Space(table.space.choices, ["layer.0 <= 1"])
    grown = obey(Prompt(ends, (small, small), "grow", 1.0, Random(0)))
    assert ends.feasible(grown)
    assert grown["layer.0"] == 1


def test_prompts_that_succeed_are_used_more() -> None:
    table = Table(12, 4)
    used: list[str] = []

    def propose(prompt: Prompt) -> Config:
        used.append(prompt.rule)
        return obey(prompt) if prompt.rule == "grow" else prompt.parents[0]  # what is known can never enter

    drive(MapElites(first=5).illuminate(table.problem(), propose), 60, table.values)
    assert used[-40:].count("grow") > 2 * 40 / len(RULES)


def test_answers_that_are_no_configs_are_refused_and_counted() -> None:
    table = Table(6, 3)

    def propose(prompt: Prompt) -> Mapping[str, Option]:
        return {"layer.0": 1} if prompt.rule == "change" else {"layers": 2}

    running = MapElites(first=5).illuminate(table.problem(), propose)
    asked = drive(running, 40, table.values)
    assert len(set(asked)) == 40
    refused = 0.5 * 35
    assert sum(running.curiosity.values()) <= 35 - refused


def test_violations_and_failures_do_not_enter() -> None:
    table = Table(4, 3)
    running = MapElites().illuminate(table.problem(), obey)
    first, second, third, *_ = dict.fromkeys(draws(table.space, 20))
    running.tell(first, [1.0, 1.0], 0.5)
    running.tell(second, [math.inf] * 2, math.inf)
    assert running.archive.empty
    running.tell(third, [1.0, 1.0])
    assert running.elites == [third]


def test_kinds() -> None:
    space = Space([Choice("stage.depth", (1, 2, 3)), Choice("width", (8, 16, 32)), Choice("kernel", (3, 5))])
    running = MapElites().illuminate(Problem(space, 1, 0), obey)
    wide = space.check({"stage.depth": 1, "width": 32, "kernel": 5})
    kinds = running.kind([space.smallest(), space.largest(), wide])
    np.testing.assert_allclose(kinds, [[0, 0.5], [1, 0.5], [2 / 3, 1]])
    table = Table(5, 3)
    ends = MapElites().illuminate(table.problem(), obey).kind([table.space.smallest(), table.space.largest()])
    np.testing.assert_allclose(ends[:, 0], [0, 1])


def test_without_pyribs_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ribs.archives", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'pliant\[ribs\]'"):
        MapElites().start(Table(3, 3).problem())


def test_bad_settings() -> None:
    with pytest.raises(WrongShapeError, match="at least 1"):
        MapElites(cells=(0, 4))
    with pytest.raises(UnknownNameError, match="did you mean 'macs'"):
        MapElites(statistic="mac").start(Table(3, 3).problem())
