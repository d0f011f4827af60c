"""The time of the analysis over that of `torch.export`: at most 5 %."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from pliant.graph.analysis import analyze
from pliant.measure.timing import torch_threads

from ._figures import Figure, by_turns, ratio
from ._networks import resnet50, vit_b

LIMIT = 0.05
REPEATS = 20


def run(arguments: Sequence[str]) -> list[Figure]:
    """Measure both networks with one thread and with two."""
    figures = []
    for name, make in (("ResNet-50", resnet50), ("ViT-B/16", vit_b)):
        net, args = make()
        for threads in (1, 2):
            with torch_threads(threads):
                figures += measure(f"{name}, {threads} thread{'s' * (threads > 1)}", net, args)
    return figures


def measure(name: str, net: nn.Module, args: tuple[Tensor, ...]) -> list[Figure]:
    """Compare plain exports with whole analyses, by turns; of the latter the analysis' own part counts."""
    own: list[float] = []

    def export() -> None:
        torch.export.export(net, args, strict=False)

    def whole() -> None:
        own.append(analyze(net, args).seconds["analysis"])

    timed(export)
    timed(whole)
    own.clear()
    exports, wholes = by_turns([lambda: timed(export), lambda: timed(whole)], REPEATS)
    return [
        ratio(f"analysis / export: {name}", np.asarray(own), exports, LIMIT),
        ratio(f"pliant.analyze with its export / export: {name}", wholes, exports, None),
    ]


def timed(call: Callable[[], None]) -> float:
    """Return the seconds of one call."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start
