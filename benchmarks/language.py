"""A space written in the language of modules, every network of it trained once, and what searchers find in the table.

``python -m benchmarks language [TABLE]`` trains all 240 networks of :func:`space` on the digits task (20 steps each,
one seed), stores the table in TABLE or reads it where it is there, and lets each searcher look for the lowest loss on
the validation images. The figures are the mean regret (how far above the table's lowest) over that of random search.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

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
)
from pliant.files import write_json
from pliant.space import Config, Forms, Problem, Program
from pliant.tasks import digits
from pliant.technique import Searcher

from ._figures import OUT, Figure

BY_DEFAULT = False
STEPS, SEEDS, BUDGETS = 20, 10, (10, 20, 40)


def space() -> Program:
    """Return 5 x (4 + 16 + 4) x 2 = 240 networks."""
    dense = Concat(Affine(out=[8, 32]), Or(Relu(), Tanh()))
    conv = Concat(Conv2d(channels=[4, 8], kernel=[1, 3]), Relu(), MaxPool2d())
    body = Or(Repeat(dense, [1, 2]), Residual(dense))
    return architectures(Concat(Optional(conv), body, Optional(Dropout(p=0.25)), Affine(out=10)), digits.example_args())


def trained(program: Program, config: Config) -> float:
    """Return the validation loss of the network of ``config`` after a short training."""
    torch.manual_seed(0)
    net = program.build(config)
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-2, fused=True)
    for x, y in batches():
        optimizer.zero_grad()
        F.cross_entropy(net(x), y).backward()
        optimizer.step()
    return digits.evaluate(net)["loss"]


@cache
def batches() -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Return what every network is trained on."""
    return list(islice(digits.batches(0), STEPS))


def table(program: Program, file: Path) -> dict[str, float]:
    """Return the loss of every network by the key of its canonical config; measured where ``file`` is not there."""
    if not file.exists():
        losses = {leaf.key: trained(program, leaf) for leaf in program.leaves()}
        file.parent.mkdir(exist_ok=True)
        write_json(file, losses)
    found: dict[str, float] = json.loads(file.read_text(encoding="utf-8"))
    return found


def best(program: Program, losses: dict[str, float], searcher: Searcher, seed: int) -> np.ndarray:
    """Return the lowest loss after 1, 2, … measurements."""
    forms = Forms(program.counts.canonical, program.counts.active)
    proposer = searcher.start(Problem(program.space, 1, seed, forms=forms))
    found = []
    for _ in range(max(BUDGETS)):
        [config] = proposer.ask()
        found.append(losses[program.canonical(config).key])
        proposer.tell(config, found[-1:])
    return np.minimum.accumulate(found)


def run(arguments: Sequence[str]) -> list[Figure]:
    """Measure or read the table, and search it."""
    program = space()
    losses = table(program, Path(arguments[0]) if arguments else OUT / "language-table.json")
    values = np.array(list(losses.values()))
    searchers: dict[str, Any] = {
        "random": pliant.RandomSearch(),
        "mcts": pliant.Mcts(),
        "regularized evolution": pliant.RegularizedEvolution(population=20, sample=5),
        "search flow": pliant.SearchFlow(trials=4),
        "bayesian": pliant.Bayesian(),
    }
    regrets = {
        name: np.array([best(program, losses, searcher, seed) for seed in range(SEEDS)])[:, [b - 1 for b in BUDGETS]]
        - values.min()
        for name, searcher in searchers.items()
    }
    facts = {"networks": len(values), "lowest": values.min(), "median": float(np.median(values)), "seeds": SEEDS}
    return [
        Figure(
            f"{name}: regret at {budget} over random's",
            float(found[:, at].mean() / regrets["random"][:, at].mean()),
            "x",
            1.0 if name in ("mcts", "bayesian") and budget == max(BUDGETS) else None,
            None,
            {**facts, "regret": float(found[:, at].mean()), "error": float(found[:, at].std() / np.sqrt(SEEDS))},
        )
        for name, found in regrets.items()
        for at, budget in enumerate(BUDGETS)
    ]
