"""Sorting units anew while a family trains, without changing the members that have learnt already."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from ...space.config import Config
from ...technique import Turn
from ._options import Options


def within(order: Sequence[int], borders: Iterable[int]) -> list[int]:
    """Return an order in which no unit crosses a border, and otherwise the units come as in ``order``.

    Args:
        order: all units, the first to come first.
        borders: how many units each member keeps that shall keep them; it then computes what it did.
    """
    ends = sorted({*borders, len(order)})
    return [unit for low, high in zip([0, *ends[:-1]], ends, strict=True) for unit in order if low <= unit < high]


def sort_anew(turn: Turn, before: Options, now: Options) -> None:
    """Sort the units that choices cut of which smaller options open, by the importance that they have now.

    Args:
        turn: the step; no member has learnt in it yet.
        before: the options of every choice in the step before: what members of these compute stays the same.
        now: those of this step.
    """
    opening = [name for name in now if now[name] != before[name]]
    if not opening or not (orders := turn.family.orders()):
        return
    largest, borders = turn.space.largest(), dict[str, set[int]]()
    for name in opening:
        for option in (*before[name], now[name][0]):
            cut = turn.family.draft(Config({**largest, name: option})).kept
            for axis, units in cut.items():
                if axis in orders and isinstance(units, int):
                    borders.setdefault(axis, set()).update({units} if option in before[name] else ())
    found = {axis: within(orders[axis], kept) for axis, kept in borders.items()}
    moved = {axis: order for axis, order in found.items() if order != sorted(order)}
    if moved:
        turn.reorder(moved)
