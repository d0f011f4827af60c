"""A trained family as a case: every member of a small part of its space is measured once.

``python -m benchmarks search --measure RUN --table FILE`` takes a finished ``pliant run`` of a task whose family has
one choice of depth, keeps two or three options of every other choice (:data:`_KEPT`), and measures the validation loss
(or, where the task gives none, its error), MACs and parameters of every different network.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from pliant.family.family import Family
from pliant.files import write_json
from pliant.measure import Macs, Params
from pliant.runs.folder import RunFolder
from pliant.space import Choice, Space
from pliant.space.front import non_dominated
from pliant.tasks import load_task

from .case import Case

_KEPT: dict[str, dict[str, tuple[int, ...]]] = {
    "digits": {"heads": (0, 1, 3), "width": (0, 3)},
    "charlm": {"heads": (1, 3), "width": (0, 1, 3)},
}
_DEPTH = "depth"


def _kept(choice: Choice, task: str) -> Choice:
    last = choice.name.rpartition(".")[2]
    if last == _DEPTH:
        return choice
    return Choice(choice.name, tuple(choice.options[at] for at in _KEPT[task][last]), choice.ordered)


def measure(run: Path, out: Path) -> None:
    """Measure the members of the finished ``run`` that are in the small space, into the table ``out``."""
    name = str(RunFolder.open(run).record["asked"]["task"]).partition(":")[0]
    task = load_task(name)
    family = Family.load(run / "family", task.model())
    space = Space([_kept(choice, name) for choice in family.space.choices])
    [depth] = [at for at, choice in enumerate(space.choices) if choice.name.endswith(_DEPTH)]
    idle = _idle(family, space, depth)
    counters = (Macs(task.example_args()), Params())
    rows: dict[str, list[float]] = {}
    for config in space.enumerate():
        indices = space.indices([config])
        key = "".join(map(str, _canonical(indices, depth, idle)[0]))
        if key not in rows:
            member = family.ready(config)
            found = task.evaluate(member)
            error = found.get("loss", next(iter(found.values())))
            rows[key] = [error, *(counter.measure(member).value for counter in counters)]
            if len(rows) % 500 == 0:
                print(f"{len(rows)} members measured", flush=True)
    record = {"task": name, "space": space.to_json(), "depth": depth, "idle": idle, "members": rows}
    write_json(out, record)


def _idle(family: Family, space: Space, depth: int) -> list[list[int]]:
    """Return for each option of the depth which other choices do not matter."""
    found = []
    for option in space.choices[depth].options:
        base = family.space.complete({**space.smallest(), space.choices[depth].name: option})
        same = family.canonical(base)
        found.append([
            at for at, choice in enumerate(space.choices)
            if at != depth and family.canonical({**base, choice.name: choice.largest}) == same
        ])  # fmt: skip
    return found


def _canonical(indices: np.ndarray, depth: int, idle: list[list[int]]) -> np.ndarray:
    found = indices.copy()
    for option, columns in enumerate(idle):
        found[np.ix_(np.flatnonzero(indices[:, depth] == option), np.array(columns, dtype=int))] = 0
    return found


def load(path: Path) -> Case:
    """Read a table that :func:`measure` wrote; both values from least to most are 0 to 1."""
    record: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    space, depth, idle = Space.from_json(record["space"]), int(record["depth"]), record["idle"]
    sizes = np.array([len(choice.options) for choice in space.choices])
    powers = np.append(np.cumprod(sizes[:0:-1])[::-1], 1)
    table = np.full((int(np.prod(sizes)), 3), np.nan)
    for key, row in record["members"].items():
        table[np.array([int(letter) for letter in key]) @ powers] = row
    values = np.array(list(record["members"].values()))[:, :2]

    def canonical(indices: np.ndarray) -> np.ndarray:
        return _canonical(indices, depth, idle)

    def active(indices: np.ndarray) -> np.ndarray:
        found = np.ones(indices.shape, dtype=bool)
        for option, columns in enumerate(idle):
            found[np.ix_(np.flatnonzero(indices[:, depth] == option), np.array(columns, dtype=int))] = False
        return found

    return Case(
        f"family-{record['task']}",
        space,
        truth=lambda indices: table[canonical(indices) @ powers, :2],
        front=np.unique(values[non_dominated(values)], axis=0),
        low=values.min(axis=0),
        high=values.max(axis=0),
        statistics={"params": lambda indices: table[canonical(indices) @ powers, 2]},
        canonical=canonical,
        active=active,
    )
