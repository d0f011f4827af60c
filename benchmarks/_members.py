"""Members by the share of the network that stays."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

from pliant import Family
from pliant.runs.members import macs_of_one
from pliant.space import Config


def config_of(family: Family, shares: Mapping[str, float]) -> Config:
    """Return the config nearest to these shares of each kind of axis (and of ``depth``); the rest stays whole."""
    kinds = {axis.name: axis.kind for axis in family.analysis.axes}
    config: dict[str, Any] = {}
    for choice in family.space.choices:
        share = shares.get(kinds.get(choice.name, "depth"), 1.0)
        config[choice.name] = min(choice.options, key=lambda o: abs(o - share * choice.largest))  # type: ignore[operator]
    return family.space.check(config)


def macs(family: Family, config: Mapping[str, Any]) -> float:
    """Return the multiply-accumulates of one example."""
    return macs_of_one(family).measure(family.ready(config)).value


def with_macs(family: Family, targets: Sequence[float]) -> list[Config]:
    """Return, for each share of the full network's MACs, the evenly cut member next below it (or the smallest)."""
    whole = macs(family, family.space.largest())
    rows = {}
    for width, heads, depth in itertools.product((0.25, 0.5, 0.75, 1.0), (0.25, 0.5, 0.75, 1.0), (0.5, 0.75, 1.0)):
        config = config_of(family, {"width": width, "heads": heads, "depth": depth})
        if config not in rows:
            rows[config] = macs(family, config) / whole
    smallest = min(rows, key=rows.__getitem__)
    return [max((c for c in rows if rows[c] <= target), key=rows.__getitem__, default=smallest) for target in targets]
