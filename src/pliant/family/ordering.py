"""The order of units: what is permuted when the units of axes change places, and who says which comes first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..checks import PliantError, WrongShapeError
from ..graph.slicing import Slicing, take
from ..technique import Elastic

if TYPE_CHECKING:
    from .family import Family

Orders = Mapping[str, Sequence[int]]


def prepare(family: Family, orders: Orders | None) -> None:
    """Sort units once, then let techniques change the family, by stage; see :meth:`pliant.Family.prepare`."""
    if family.prepared:
        if orders is not None:
            raise PliantError("this family is prepared already: call prepare(orders) first of all, or permute(orders)")
        return
    techniques = [placed.technique for placed in family.techniques]
    for technique in techniques:
        if sorted_by := technique.orders(family) if orders is None else {}:
            permute(family, sorted_by)
    if orders:
        permute(family, orders)
    for technique in sorted(techniques, key=lambda each: each.stage or 0):
        technique.prepare(family)
    family.prepared = True


def permute(family: Family, orders: Orders, beside: Sequence[Mapping[str, Tensor]] = ()) -> None:
    """Reorder units in every tensor of a family and in ``beside``; see :meth:`pliant.Family.permute`."""
    for name, order in orders.items():
        if len(order) != (size := family.analysis.axis(name).size):
            raise WrongShapeError(f"the order of axis {name!r} names {len(order)} units; name all its {size} once")
    slicing = Slicing(family.analysis, {name: list(order) for name, order in orders.items()})
    own = family.tensors()
    with torch.no_grad():
        for tensors in (own, *beside):
            for name in own.keys() & tensors.keys():
                picks = slicing.picks(name)
                if any(pick is not None for pick in picks):
                    tensors[name].copy_(take(tensors[name].detach().clone(), picks))
        for tensors in (family.extra, *beside):
            added = {name: value for name, value in tensors.items() if name in family.extra}
            for placed in family.techniques:
                placed.technique.reorder(added, slicing)
    family.forget()


def orders_of(family: Family) -> dict[str, Sequence[int]]:
    """Return the order by importance of every axis that has one; see :meth:`pliant.Family.orders`."""
    techniques = [placed.technique for placed in family.techniques]
    if not all(each.follows or type(each).extras is Elastic.extras for each in techniques):
        return {}
    return {axis: order for each in techniques for axis, order in each.orders(family).items()}
