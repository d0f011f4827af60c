"""NAS-Bench-Macro as a case.

The file is ``nas-bench-macro_cifar10.json`` of the public repository xiusu/NAS-Bench-Macro (Su et al., 2021,
Prioritized Architecture Sampling with Monto-Carlo Tree Search, arXiv 2103.11922; Apache-2.0): 6561 networks of eight
layers, each an identity or one of two convolution blocks, trained three times on CIFAR-10. Identities commute with what
follows the first layer of their stage, so 3969 networks are different; the table gives equal ones equal values.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from pliant.space import Choice, Space
from pliant.space.front import non_dominated

from .case import Case

_STAGES = ((0, 2), (2, 5), (5, 8))
_POWERS = 3 ** np.arange(7, -1, -1)


def load(path: Path) -> Case:
    """Read the table: error is 100 less the mean accuracy, the cost is FLOPs; both from least to most are 0 to 1."""
    table = json.loads(path.read_text(encoding="utf-8"))
    rows = [table[key] for key in sorted(table)]
    values = np.array([[100.0 - row["mean_acc"], float(row["flops"])] for row in rows])
    params = np.array([float(row["params"]) for row in rows])
    names = [f"stages.{s}.layers.{at}.block" for s, (low, high) in enumerate(_STAGES) for at in range(high - low)]
    return Case(
        "nas-bench-macro",
        Space([Choice(name, ("identity", "MB3_K3", "MB6_K5")) for name in names]),
        truth=lambda indices: values[indices @ _POWERS],
        front=np.unique(values[non_dominated(values)], axis=0),
        low=values.min(axis=0),
        high=values.max(axis=0),
        statistics={"params": lambda indices: params[indices @ _POWERS]},
        canonical=_canonical,
        active=lambda indices: indices > 0,
    )


def _canonical(indices: np.ndarray) -> np.ndarray:
    """Move the identities after the first layer of each stage to its end."""
    found = indices.copy()
    for low, high in _STAGES:
        part = found[:, low + 1 : high]
        order = np.argsort(part == 0, axis=1, kind="stable")
        found[:, low + 1 : high] = np.take_along_axis(part, order, axis=1)
    return found
