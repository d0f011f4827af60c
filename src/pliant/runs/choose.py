"""Which members of the front to show, and which of them to recommend once they have been timed."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from ..space.config import Config
from ..study import Trial

SHOWN = 6


def candidates(front: Sequence[Trial], error: str, reference: Mapping[str, float], tolerance: float) -> list[Trial]:
    """Pick up to six members of the front to extract and time, largest first.

    The member with the fewest MACs whose error is within ``tolerance`` of the reference, the most accurate, the
    smallest, and members spread evenly over the logarithm of MACs between them.

    Args:
        front: feasible trials with values ``error`` and ``macs``.
        error: the task's objective.
        reference: the values of the full network, which is not picked itself.
        tolerance: in the unit of the error.
    """
    rest = [t for t in front if t.values["macs"] < reference["macs"]]
    rest.sort(key=lambda t: (-t.values["macs"], t.number))
    # Widths inside a block that is left out change the config, not the network.
    rest = list({(t.values[error], t.values["macs"]): t for t in reversed(rest)}.values())[::-1]
    if len(rest) <= SHOWN:
        return rest
    good = [t for t in rest if t.values[error] <= reference[error] + tolerance]
    picked: dict[Config, Trial] = {}
    if good:
        picked[good[-1].config] = good[-1]
    best = min(rest, key=lambda t: (t.values[error], t.values["macs"]))
    picked[best.config] = best
    # Of what is over the tolerance one is enough to show where quality breaks.
    pool = good if len(good) >= SHOWN else rest
    picked[pool[-1].config] = pool[-1]
    low, high = math.log(pool[-1].values["macs"]), math.log(pool[0].values["macs"])
    for i in range(SHOWN * 4):
        if len(picked) >= SHOWN:
            break
        goal = low + (high - low) * (_spread(i))
        near = min(
            (t for t in pool if t.config not in picked),
            key=lambda t: (abs(math.log(t.values["macs"]) - goal), t.number),
            default=None,
        )
        if near is None:
            break
        picked[near.config] = near
    return sorted(picked.values(), key=lambda t: (-t.values["macs"], t.number))


def _spread(index: int) -> float:
    """Return the index-th of the points 1, 1/2, 1/4, 3/4, 1/8 … : each new one falls into the widest gap."""
    if index == 0:
        return 1.0
    value, scale = 0.0, 0.5
    while index:
        value += scale * (index & 1)
        index >>= 1
        scale /= 2
    return value


def not_faster(ids: Sequence[str], macs: Mapping[str, float], ratio: Mapping[str, float]) -> dict[str, str]:
    """Return the members that are not faster than a bigger one, with the id of that bigger one.

    Args:
        ids: members, among them the reference.
        macs: their multiply-accumulates.
        ratio: their measured latency over the reference's, in the same loop.
    """
    dropped: dict[str, str] = {}
    for own in ids:
        bigger = [other for other in ids if macs[other] > macs[own] and ratio[other] <= ratio[own]]
        if bigger:
            dropped[own] = min(bigger, key=lambda other: ratio[other])
    return dropped
