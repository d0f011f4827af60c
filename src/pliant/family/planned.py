"""How much memory a member needs when its forward pass follows a plan."""

from __future__ import annotations

from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

from ..graph.schedule import one_sample, plan_memory, record
from ..space.config import Config
from .statistics import keeping_modes

if TYPE_CHECKING:
    from .family import Family

_KNOWN: WeakKeyDictionary[Family, dict[Config, tuple[int, int]]] = WeakKeyDictionary()


def planned_bytes(family: Family, config: Config, weights: bool = False) -> int:
    """Return the bytes of the buffer that a planned pass of a member on one sample of the example needs.

    It depends on shapes alone, so it is worked out once for each config: by running the member and planning what it
    does, some hundredths of a second for a small transformer.

    Args:
        family: the family.
        config: the member.
        weights: add the weights that the pass reads.
    """
    known = _KNOWN.setdefault(family, {})
    if config not in known:
        with keeping_modes(family.model):
            tape = record(family.member(config), *one_sample(*family.example()))
        known[config] = (plan_memory(tape).peak, tape.weights)
    return known[config][0] + (known[config][1] if weights else 0)
