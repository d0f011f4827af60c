"""Which configs give the same network: what is inside a left-out block may be of any size."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ..graph.analysis import Analysis
from ..space.config import Config
from ..space.space import Space
from .draft import Draft

Fingerprint = tuple[Any, ...]


class Canonical:
    """Maps each config to the one that stands for all with the same network: its idle choices at their largest.

    Args:
        analysis: the analysis of the full network.
        space: the family's space.
        draft: what the techniques make of a config.
    """

    def __init__(self, analysis: Analysis, space: Space, draft: Callable[[Mapping[str, Any]], Draft]) -> None:
        self._space, self._draft = space, draft
        names = places(analysis)
        self._places = {
            axis.name: [place for tensor in axis.parameters for place in names.get(tensor, [tensor])]
            for axis in analysis.axes
        }
        self._modules = {block.name: f"{block.module}." for block in analysis.blocks}

    def of(self, config: Config) -> Config:
        """Return the config with the same network whose idle choices are largest.

        A technique that edits networks is not looked into: where there is one, every choice counts.
        """
        draft = self._draft(config)
        if not draft.dropped or draft.changes:
            return config
        wanted, found = self._fingerprint(draft), config
        for choice in self._space.choices:
            if found[choice.name] == choice.largest:
                continue
            other = Config({**found, choice.name: choice.largest})
            if self._space.feasible(other) and self._fingerprint(self._draft(other)) == wanted:
                found = other
        return found

    def _fingerprint(self, draft: Draft) -> Fingerprint:
        """Return what is left out and what stays of every axis that reaches a tensor outside of it."""
        gone = tuple(self._modules[block] for block in draft.dropped)
        kept = {
            axis: units if isinstance(units, int) else tuple(units)
            for axis, units in draft.kept.items()
            if not _all_inside(self._places[axis], gone)
        }
        return (frozenset(draft.dropped), kept, draft.changes)


def _all_inside(places: Sequence[str], modules: tuple[str, ...]) -> bool:
    return all(place.startswith(modules) for place in places)


def places(analysis: Analysis) -> dict[str, list[str]]:
    """Return for every tensor's canonical name all names that it has in the network."""
    found: dict[str, list[str]] = {}
    for name, first in analysis.capture.aliases.items():
        found.setdefault(first, []).append(name)
    return found
