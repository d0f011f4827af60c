"""Members of a family as networks of their own, each trained alone."""

from __future__ import annotations

import json

from pliant.files import write_json
from pliant.space import Config
from pliant.tasks import Task

from .._alone import train_alone
from .members import Members
from .runs import error_of, folder_of

_RATES = (1.0, 1.5)

Errors = dict[str, list[tuple[float, float]]]  # by member: (test, validation) of each seed


def alone(task: Task, members: Members, steps: int, seeds: int, random_seeds: int, read_only: bool) -> Errors:
    """Return the errors of members trained alone; each at the rate that is best by validation.

    The random members get the rate that was best for the last of those chosen by size.
    """
    found: Errors = {}
    rates: tuple[float, ...] = _RATES
    for name, config in members.configs.items():  # the random ones come last
        count = seeds if name in members.sized else random_seeds
        rows = {rate: _rows(task, config, steps, rate, count, read_only) for rate in rates}
        full = {rate: row for rate, row in rows.items() if row and len(row) == max(map(len, rows.values()))}
        if not full:
            continue
        best = min(full, key=lambda rate: sum(pair[1] for pair in full[rate]) / len(full[rate]))
        found[name] = full[best]
        if name == members.sized[-1]:
            rates = (best,)
    return found


def _rows(
    task: Task, config: Config, steps: int, rate: float, seeds: int, read_only: bool
) -> list[tuple[float, float]]:
    rows = []
    for seed in range(seeds):
        path = folder_of(task) / f"alone-{config.key}-{rate:g}-{steps}-{seed}.json"
        asked = {"task": task.digest, "member": config.key}
        if path.exists() and (stored := json.loads(path.read_text(encoding="utf-8")))["asked"] == asked:
            rows.append((float(stored["errors"][0]), float(stored["errors"][1])))
        elif not read_only:
            errors = error_of(task, train_alone(task, config, seed, steps, rate))
            write_json(path, {"asked": asked, "errors": errors})
            rows.append(errors)
            print(f"alone {config.key}, rate {rate:g}, seed {seed}: {errors[0]:.2f}", flush=True)
    return rows
