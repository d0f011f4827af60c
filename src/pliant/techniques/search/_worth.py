"""What a learning policy is told of its configs: rewards from measurements, and by how much they were surprising."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from ...space import Config
from ._batches import Measured
from ._standing import standing


def rewards(told: Iterable[Measured], configs: Sequence[Config]) -> np.ndarray:
    """Return the rewards (n,) of measured ``configs``, by what is known of all.

    Of one objective: its negative value, standardised. Of several: the negative number of fronts before the config's
    own, over their number. What breaks constraints or failed is one below the worst of the others.

    Args:
        told: everything that was measured, ``configs`` among it.
        configs: to reward.
    """
    known = list(told)
    good = np.array([not each.failed and each.violation == 0 for each in known])
    values = np.array([each.values for each in known], dtype=float).reshape(len(known), -1)
    worth = np.zeros(len(known))
    if good.any() and values.shape[1] == 1:
        spread = values[good, 0].std() or 1.0
        worth[good] = -(values[good, 0] - values[good, 0].mean()) / spread
    elif good.any():
        rank = standing(values[good], np.zeros(int(good.sum())))[0]
        worth[good] = -rank / max(1, int(rank.max()))
    if good.any():
        worth[~good] = worth[good].min() - 1
    place = {each.config: at for at, each in enumerate(known)}
    return worth[[place[config] for config in configs]]


class Baseline:
    """A moving average of rewards; what exceeds it is reinforced.

    Args:
        memory: share of the average that stays when a reward comes, from 0 to below 1.
    """

    def __init__(self, memory: float) -> None:
        self._memory = memory
        self._average: float | None = None

    def advantages(self, found: np.ndarray) -> np.ndarray:
        """Return by how much each reward (n,) exceeds the average before it, over ``n``, and move the average."""
        if self._average is None:
            self._average = float(found.mean())
        over = np.zeros(len(found))
        for at, reward in enumerate(found):
            over[at] = (reward - self._average) / len(found)
            self._average += (1 - self._memory) * (reward - self._average)
        return over
