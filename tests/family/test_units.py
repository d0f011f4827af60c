"""Weights seen from an axis: against brute force, which removes a unit and looks what is gone."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from pliant.family import Family
from pliant.graph.slicing import Slicing
from pliant.techniques.elastic.width import Width
from tests.family.nets import Branches, ConvNet, Gpt, ViT, images, tokens, vectors

CASES: dict[str, Any] = {
    "convnet": (ConvNet, images),
    "vit": (ViT, lambda: vectors(3, 4, 6)),
    "gpt": (Gpt, tokens),
    "branches": (Branches, lambda: vectors(4, 8)),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_rows_are_what_leaves_with_a_unit(name: str) -> None:
    kind, inputs = CASES[name]
    family = Family(kind(), (inputs(),), [Width()])
    parameters = dict(family.model.named_parameters())
    for axis in family.analysis.axes:
        views = family.weight_views(axis.name)
        assert views
        for unit in (0, axis.size // 2, axis.size - 1):
            left = Slicing(family.analysis, {axis.name: [u for u in range(axis.size) if u != unit]})
            for touch in axis.touches:
                key = f"{touch.tensor}[{touch.dim}]"
                if touch.tensor not in parameters:
                    assert key not in views
                    continue
                value = parameters[touch.tensor].detach()
                assert views[key].shape == (axis.size, views[key].shape[1])
                pick = left.picks(touch.tensor)[touch.dim]
                kept = torch.zeros(value.shape[touch.dim], dtype=torch.bool)
                kept[torch.arange(len(kept))[pick if pick is not None else slice(None)]] = True
                gone = value.movedim(touch.dim, 0)[~kept].reshape(-1)
                assert torch.equal(views[key][unit], gone), (axis.name, key)
