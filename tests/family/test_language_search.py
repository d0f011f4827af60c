"""Spaces written in the language of modules under the searchers: all of them run, and some beat random search."""

from __future__ import annotations

import math
import re
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch

import pliant
from pliant.family.language import (
    Affine,
    Concat,
    Conv2d,
    Dropout,
    MaxPool2d,
    Optional,
    Or,
    Relu,
    Repeat,
    Residual,
    Tanh,
    architectures,
    parts,
)
from pliant.space import Config, Forms, Problem, Program
from pliant.space.placeholders import called
from pliant.technique import Searcher
from pliant.techniques.search.bayesian import Bayesian
from pliant.techniques.search.mcts import Mcts
from pliant.techniques.search.random_search import RandomSearch
from tests.helpers.source import ROOT
from tests.techniques.search.test_every_searcher import NAMES, SLOW, quick


def space() -> Program:
    dense = Concat(Affine(out=[8, 16, 32]), Or(Relu(), Tanh()))
    conv = Concat(Conv2d(channels=[4, 8, 16], kernel=[1, 3]), Relu(), MaxPool2d())
    body = Or(Repeat(dense, [1, 2, 3]), Residual(Repeat(dense, [1, 2], tied=True)))
    return architectures(
        Concat(Optional(conv), body, Optional(Dropout(p=[0.25, 0.5])), Affine(out=10)), torch.zeros(2, 1, 8, 8)
    )


def loss(value: Any, width: float = 1.0) -> float:
    """What the modules of a network add up to: sizes that help each other, and fewer layers than there may be."""
    total, widths, dropped = 2.0, [width], 0.0
    for part in modules(value):
        values = part.values
        if part.kind.__name__ == "Affine" and values["out"] != 10:
            total -= 0.5 - 0.1 * len(widths) ** 1.5
            total += 0.08 * abs(math.log2(values["out"] / widths[-1]) - 1)
            widths.append(values["out"])
        elif part.kind.__name__ == "Conv2d":
            total -= 0.3 * (values["kernel"] == 3) + 0.1 * math.log2(values["channels"])
            widths.append(values["channels"])
        elif part.kind.__name__ == "Tanh":
            total += 0.1 * len(widths) - 0.15
        elif part.kind.__name__ == "Dropout":
            dropped = values["p"]
    return math.exp(total + 0.4 * abs(dropped - math.log2(widths[-1]) / 12))


def modules(value: Any) -> list[parts.Basic]:
    """The basic modules of a decided expression, one after the other."""
    if isinstance(value, parts.Basic):
        return [value]
    if isinstance(value, parts.Tied):
        return modules(value.part) * value.times
    if isinstance(value, parts.Residual):
        return modules(value.part)
    return [each for inner in (value if isinstance(value, (list, tuple)) else value.parts) for each in modules(inner)]


@cache
def table() -> tuple[Program, dict[Config, float]]:
    """The space with the loss of every network in it."""
    program = space()
    return program, {leaf: measured(program, leaf) for leaf in program.leaves()}


def measured(program: Program, config: Config) -> float:
    return loss(called(list(program.bind(config).args)))


def regret(searcher: Searcher, budget: int, seed: int) -> float:
    program, losses = table()
    forms = Forms(program.counts.canonical, program.counts.active)
    proposer = searcher.start(Problem(program.space, 1, seed, forms=forms))
    found = []
    for _ in range(budget):
        [config] = proposer.ask()
        found.append(losses[program.canonical(config)])
        proposer.tell(config, found[-1:])
    return min(found) - min(losses.values())


@pytest.mark.slow
def test_the_table_has_every_network() -> None:
    program, losses = table()
    assert len(losses) == program.size == (1 + 3 * 2) * ((6 + 6**2 + 6**3) + 2 * 6) * (1 + 2)
    assert len(set(losses.values())) > 1000


@pytest.mark.slow
def test_tree_search_and_models_exceed_random_search() -> None:
    random = [regret(RandomSearch(), 60, seed) for seed in range(6)]
    assert np.mean([regret(Mcts(), 60, seed) for seed in range(6)]) < np.mean(random)
    models = [regret(Bayesian(candidates=200), 30, seed) for seed in range(5)]
    assert np.mean(models) < np.mean(random) / 2  # with half of the measurements


LATE = SLOW | {"map_elites"}  # its library takes seconds to import


@pytest.mark.parametrize("name", [pytest.param(name, marks=[pytest.mark.slow] * (name in LATE)) for name in NAMES])
def test_any_searcher_searches_it(name: str) -> None:
    program = space()
    forms = Forms(program.counts.canonical, program.counts.active)
    proposer = quick(name).start(Problem(program.space, 1, 0, forms=forms))
    seen = set()
    for _ in range(8):
        [config] = proposer.ask()
        proposer.tell(config, [measured(program, config)])
        seen.add(program.canonical(config))
    assert len(seen) == 8


@pytest.mark.slow
def test_the_page_of_the_docs_runs() -> None:
    text = (ROOT / "docs" / "searchers.md").read_text(encoding="utf-8")
    section = text.partition("**A language of modules**")[2].partition("## ")[0]
    blocks = re.findall(r"^```python\n(.*?)^```$", section, re.MULTILINE | re.DOTALL)
    found: dict[str, Any] = {}
    for block in blocks:
        exec(compile(block, "docs/searchers.md", "exec"), found)
    assert len(blocks) == 2
    best = {"block": "conv", "width": 32, "rate": 0.03}
    assert found["flow"].front[0].measurements["error"].value < 4.5
    assert best["block"] == found["outer"].front[0].config["block"]


@pytest.mark.slow
def test_a_study_builds_trains_and_exports() -> None:
    program = space()
    x, y = torch.randn(64, 1, 8, 8), torch.randint(0, 10, (64,))

    def error(net: torch.nn.Module) -> float:
        optimizer = torch.optim.SGD(net.parameters(), 0.1)
        for _ in range(3):
            optimizer.zero_grad()
            found = torch.nn.functional.cross_entropy(net(x), y)
            found.backward()
            optimizer.step()
        return float(found.detach())

    study = pliant.search(program, [pliant.Metric("error", error), pliant.Params()], 6, searcher=Mcts())
    assert [trial.state for trial in study.trials] == ["complete"] * 6
    net = program.build({**program.space.largest(), "1": "1:Residual"}).eval()
    ended = torch.export.export(net, (x,)).module()
    assert torch.allclose(ended(x), net(x), atol=1e-6)
