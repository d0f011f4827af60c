"""How many measurements does a searcher need to find the front?

``python -m benchmarks search --case macro --table FILE [--methods a,b] [--seeds 20] [--budget 200] [--jobs 1]``; cases
are ``macro`` (NAS-Bench-Macro's table, see :mod:`.macro`), ``family`` (all members of a small space of a trained run,
made by ``--measure RUN`` first, see :mod:`.family`) and ``synthetic``. Each method and seed is a record in
``bench-out/search/CASE/``, and is not run again; ``--report`` only shows what is there, ``--plot FILE`` draws it and
``--markdown`` prints a table.

Regret is the hypervolume of the true front less that of what was measured. A config, or another name of its network,
that was measured before is answered from memory and counts once, for every method. Milliseconds are processor time
of asking and telling per measurement.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pliant.files import write_json

from .._figures import OUT, Figure
from . import family, macro, synthetic
from .case import Case
from .methods import DEFAULT, METHODS, PEERS
from .tables import markdown

BY_DEFAULT = False
_POINTS = (25, 50, 100, 200)
_REPEATS = 500
"""Known configs in a row after which a method has nothing new to propose."""


def label(arguments: Sequence[str]) -> str:
    """Return the name of the figures' file."""
    return f"search-{_options(arguments).case}"


def run(arguments: Sequence[str]) -> list[Figure]:
    """Run what is missing and return the figures."""
    options = _options(arguments)
    if options.measure is not None:
        family.measure(options.measure, _table(options))
        return []
    case = _case(options)
    names = [name for name in METHODS if options.methods is None or name in options.methods.split(",")]
    if not options.report:
        todo = [(name, seed) for seed in range(options.seeds) for name in names if not _done(case, name, seed, options)]
        if options.one:
            for name, seed in todo:
                write_json(_place(case, name, seed), one(case, name, seed, options.budget))
        else:
            _spawn(todo, options, arguments)
    if options.markdown:
        records = {name: _records(case, name) for name in names}
        print(markdown(case, records, lambda found: _curves(case, found), reached, _POINTS))
    if options.plot is not None:
        from .plot import draw

        draw(case, {name: _records(case, name) for name in names}, options.plot)
    return [figure for name in names for figure in figures(case, name, _records(case, name))]


def _options(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks search")
    parser.add_argument("--case", choices=("macro", "family", "synthetic"), default="synthetic")
    parser.add_argument("--table", type=Path, help="the file of the case's table")
    parser.add_argument("--measure", type=Path, help="a finished run whose family is measured into --table")
    parser.add_argument("--methods", help=f"of {', '.join(METHODS)}")
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--budget", type=int, default=200)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--report", action="store_true")
    parser.add_argument("--one", action="store_true", help="run in this process")
    parser.add_argument("--plot", type=Path)
    parser.add_argument("--markdown", action="store_true")
    return parser.parse_args(arguments)


def _table(options: argparse.Namespace) -> Path:
    if options.table is None:
        raise SystemExit(f"the case {options.case} needs --table FILE")
    found: Path = options.table
    return found


def _case(options: argparse.Namespace) -> Case:
    if options.case == "synthetic":
        return synthetic.make()
    return (macro if options.case == "macro" else family).load(_table(options))


def _place(case: Case, name: str, seed: int) -> Path:
    return OUT / "search" / case.name / f"{name.replace(' ', '_')}.{seed}.json"


def _done(case: Case, name: str, seed: int, options: argparse.Namespace) -> bool:
    place = _place(case, name, seed)
    return place.is_file() and json.loads(place.read_text(encoding="utf-8"))["budget"] >= options.budget


def _spawn(todo: Sequence[tuple[str, int]], options: argparse.Namespace, arguments: Sequence[str]) -> None:
    """Run each method in a process of its own, ``jobs`` at a time."""
    waiting = list(dict.fromkeys(name for name, _ in todo))
    running: list[subprocess.Popen[bytes]] = []
    while waiting or running:
        while waiting and len(running) < options.jobs:
            command = [sys.executable, "-m", "benchmarks", "search", *arguments, "--one", "--methods", waiting.pop(0)]
            running.append(subprocess.Popen(command, stdout=subprocess.DEVNULL))
        running = [process for process in running if process.poll() is None]
        time.sleep(0.5)


def one(case: Case, name: str, seed: int, budget: int) -> dict[str, Any]:
    """Search once; return the true values in the order of measurement, and the time."""
    proposer = METHODS[name](case, seed)
    known: dict[Any, list[float]] = {}
    values: list[list[float]] = []
    spent, repeats = 0.0, 0
    while len(values) < budget and repeats < _REPEATS:
        start = time.process_time()
        config = proposer.ask()
        spent += time.process_time() - start
        network = case.same(config)
        repeats += 1
        if network not in known:
            known[network], truth = case.measured(network, seed)
            values.append(truth.tolist())
            repeats = 0
        start = time.process_time()
        proposer.tell(config, known[network])
        spent += time.process_time() - start
    return {"method": name, "seed": seed, "budget": budget, "ms": 1e3 * spent / len(values), "values": values}


def _records(case: Case, name: str) -> list[dict[str, Any]]:
    places = sorted(_place(case, name, 0).parent.glob(f"{name.replace(' ', '_')}.*.json"))
    return [json.loads(place.read_text(encoding="utf-8")) for place in places]


def figures(case: Case, name: str, records: Sequence[dict[str, Any]]) -> list[Figure]:
    """Return regrets, counts to 99 and 99.9 % of the true hypervolume, and milliseconds, as medians over the seeds."""
    if not records:
        return []
    curves = _curves(case, records)
    budget = curves.shape[1]
    facts: dict[str, Any] = {"seeds": len(records), "budget": budget}
    for point in _POINTS:
        if point <= budget:
            facts[f"regret_{point}"] = float(np.median(curves[:, point - 1]))
    for share in (0.99, 0.999):
        counts = reached(curves, case.best * (1 - share))
        facts[f"to_{100 * share:g}"] = float(np.median(counts))
    facts["front_found"] = float(np.median([case.share(np.array(record["values"])) for record in records]))
    ms = float(np.median([record["ms"] for record in records]))
    low, high = np.percentile(curves[:, min(50, budget) - 1], [25, 75])
    limit = 0.003 if name == DEFAULT and case.name == "nas-bench-macro" else None
    rows = [Figure(f"{name}: regret at 50", facts.pop("regret_50", float("nan")), "", limit, float(high - low), facts)]
    rows.append(Figure(f"{name}: optimiser per measurement", ms, "ms", 30.0 if name == DEFAULT else None))
    if name == DEFAULT:
        rows += _against_peers(case, curves)
    return rows


def _against_peers(case: Case, own: np.ndarray) -> list[Figure]:
    """Return for each peer how many times fewer measurements the default needs for its median regret at the end."""
    rows = []
    for name in PEERS:
        records = _records(case, name)
        if records:
            curves = _curves(case, records)
            budget = curves.shape[1]
            needed = float(np.median(reached(own, float(np.median(curves[:, -1])))))
            rows.append(Figure(f"{DEFAULT} against {name} at its {budget}", budget / needed, "x fewer"))
    return rows


def reached(curves: np.ndarray, regret: float) -> np.ndarray:
    """Return after how many measurements each curve (seeds, n) is at ``regret`` or below; infinite where never."""
    below = curves <= regret + 1e-12
    return np.where(below.any(axis=1), below.argmax(axis=1) + 1.0, np.inf)


def _curves(case: Case, records: Sequence[dict[str, Any]]) -> np.ndarray:
    """Return the regrets (seeds, budget) of a method's records, up to the smallest budget of all."""
    budget = min(record["budget"] for record in records)
    return np.array([_padded(case.regrets(np.array(record["values"])), budget) for record in records])


def _padded(curve: np.ndarray, length: int) -> np.ndarray:
    """Return ``curve`` with its last value kept on, where a method ran out of new configs."""
    return np.concatenate([curve, np.full(max(0, length - len(curve)), curve[-1])])[:length]
