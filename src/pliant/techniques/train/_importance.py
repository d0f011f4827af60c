"""How important the units and blocks are that a smaller option would cut, and which options to withdraw next."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from ...graph.costs import Costs
from ...space.config import Config
from ._options import allowed_options
from ._residual import closing_gains

if TYPE_CHECKING:
    from ...family.draft import Draft
    from ...family.family import Family


class Importance:
    """The importance of units and blocks with the weights as they are: 1 is average.

    A unit that a BatchNorm scales is as important as its scale is large, compared with all such scales of the network;
    another one as its weights are, compared with those of the units beside it. Likewise a block by the normalisation
    that closes it, compared with those of the other blocks, else by its weights.

    Args:
        family: the family.
    """

    def __init__(self, family: Family) -> None:
        self._family, self._analysis = family, family.analysis
        tensors = family.tensors()
        owners = {name.rpartition(".")[0] for name in family.statistics}
        found = {f"{owner}.weight" for owner in owners}
        self._scales = {n: t for n in found if isinstance(t := tensors.get(n), nn.Parameter)}
        self._mean_scale = _mean(self._scales.values())
        self._units: dict[str, Tensor] = {}
        self._blocks = self._of_blocks()

    def units(self, axis: str) -> Tensor:
        """Return the importance of each unit of an axis (units,)."""
        if axis not in self._units:
            views = self._family.weight_views(axis)
            scales = [rows.abs().mean(1) for name, rows in views.items() if name.rpartition("[")[0] in self._scales]
            if scales:
                score = torch.stack(scales).mean(0) / max(self._mean_scale, 1e-12)
            else:
                shares = [rows.abs().mean(1) for rows in views.values()]
                shares = [share / share.mean().clamp_min(1e-12) for share in shares]
                score = torch.stack(shares).mean(0) if shares else torch.ones(self._analysis.axis(axis).size)
            self._units[axis] = score.double().cpu()
        return self._units[axis]

    def block(self, name: str) -> float:
        """Return the importance of a block."""
        return self._blocks[name]

    def _of_blocks(self) -> dict[str, float]:
        gains, tensors = closing_gains(self._analysis, self._family.model), self._family.tensors()
        closed: dict[str, float] = {}
        weighed: dict[str, float] = {}
        for block in self._analysis.blocks:
            inside = f"{block.module}."
            own = [gain for name, gain in gains.items() if name.startswith(inside)]
            if own:
                closed[block.name] = _mean(own)
                continue
            weights = [t for n, t in tensors.items() if n.startswith(inside) and t.dim() > 1]
            weighed[block.name] = _mean(weights)
        found = {block.name: 1.0 for block in self._analysis.blocks}
        for row in (closed, weighed):
            middle = sum(row.values()) / max(1, len(row))
            found.update({name: value / middle for name, value in row.items() if middle > 0})
        return found

    def cut(self, before: Draft, after: Draft) -> float | None:
        """Return the mean importance of what ``after`` lacks of ``before``; None where that is no unit or block."""
        found = [self._blocks[block] for block in after.dropped if block not in before.dropped]
        for axis, units in after.kept.items():
            size = self._analysis.axis(axis).size
            gone = sorted(_kept(before, axis, size) - _kept_units(units))
            if gone:
                found.append(float(self.units(axis)[gone].mean()))
        return sum(found) / len(found) if found else None


class Shrinking:
    """Withdraws the options that cut what is least important, one after the other.

    Args:
        family: the family.
    """

    def __init__(self, family: Family) -> None:
        self._family, self._costs = family, Costs(family.analysis)
        self._axes = {axis.name: at for at, axis in enumerate(family.analysis.axes)}
        self._places = {block.name: at for at, block in enumerate(family.analysis.blocks)}
        self._full = [axis.size for axis in family.analysis.axes]

    def cost(self, config: Config) -> float:
        """Return the multiply-accumulates of a member as its axes and blocks tell, whatever else it computes."""
        return self._cost(self._family.draft(config))

    def _cost(self, draft: Draft) -> float:
        sizes, dropped = np.array([self._full], dtype=np.int64), np.zeros((1, len(self._places)), dtype=bool)
        for axis, units in draft.kept.items():
            sizes[0, self._axes[axis]] = units if isinstance(units, int) else len(units)
        dropped[0, [self._places[block] for block in draft.dropped]] = True
        return float(self._costs.macs(sizes, dropped)[0])

    def down_to(self, top: Config, most: float) -> Config:
        """Return what is left of ``top`` when options were withdrawn until it costs at most ``most``.

        Choices that cut no units and leave out no blocks are left alone, as are those whose options have no order. It
        costs more where nothing is left to withdraw.
        """
        importance = Importance(self._family)
        draft = self._family.draft(top)
        while (cost := self._cost(draft)) > most:
            best: tuple[float, float, Config, Draft] | None = None
            for config in self._below(top):
                smaller = self._family.draft(config)
                score, saved = importance.cut(draft, smaller), cost - self._cost(smaller)
                if score is not None and saved > 0 and (best is None or (score, -saved) < best[:2]):
                    best = (score, -saved, config, smaller)
            if best is None:
                break
            top, draft = best[2:]
        return top

    def _below(self, top: Config) -> Iterator[Config]:
        """Yield the members that have one option less than ``top`` at one choice."""
        options, space = allowed_options(self._family.space), self._family.space
        for choice in space.choices:
            few = options[choice.name]
            at = few.index(top[choice.name])
            if at and choice.ordered and space.feasible(lower := Config({**top, choice.name: few[at - 1]})):
                yield lower


def _kept(draft: Draft, axis: str, size: int) -> set[int]:
    return _kept_units(draft.kept.get(axis, size))


def _kept_units(units: object) -> set[int]:
    return set(range(units)) if isinstance(units, int) else set(units)  # type: ignore[call-overload]


def _mean(tensors: object) -> float:
    rows = [tensor.detach().abs().double().flatten() for tensor in tensors]  # type: ignore[attr-defined]
    return float(torch.cat(rows).mean()) if rows else 0.0
