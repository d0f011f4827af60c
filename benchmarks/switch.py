"""Switching the active config of a family of a transformer with twelve layers (ViT-S).

``family.member(config)`` for a new config (20 ms), a hundred of them, and for one that was asked for before (cached,
1 ms), fifty of them over and over in random order, with the weights as they were. Views only where hidden layers and
streams bend; where heads bend, the fused projections of the member are gathered, which is part of the time.
"""

from __future__ import annotations

import random
import time
import warnings
from collections.abc import Sequence

import numpy as np
import torch

from pliant import Depth, Family, Width
from pliant.measure.timing import torch_threads
from pliant.space import Config

from ._figures import Figure, median
from ._networks import vit_s

CONFIGS, CACHE = 100, 50
ROUNDS = 5
CACHED, NEW = 1.0, 20.0


def run(arguments: Sequence[str]) -> list[Figure]:
    """Measure both families, in evaluation mode and with one thread: a switch is Python and copies."""
    warnings.simplefilter("ignore")
    torch.manual_seed(0)
    figures = []
    for what, kinds in (("views", ("width", "stream")), ("views and gathers", ("width", "heads"))):
        net, args = vit_s()
        family = Family(net.eval(), args, [Width(kinds=kinds), Depth()])
        for threads in (1, 2):
            with torch_threads(threads), torch.no_grad():
                figures += measure(family, f"{what}, {threads} thread{'s' * (threads > 1)}")
    return figures


def measure(family: Family, what: str) -> list[Figure]:
    """Ask for a hundred new members, then five times for each of the last fifty again."""
    family.forget()
    rng = random.Random(0)
    configs = [family.space.sample(rng) for _ in range(CONFIGS)]
    new = [seconds(family, config) for config in configs]
    cached = []
    for _ in range(ROUNDS):
        cached += [seconds(family, config) for config in rng.sample(configs[-CACHE:], CACHE)]
    return [*figures(f"new member, {what}", new, NEW), *figures(f"cached member, {what}", cached, CACHED)]


def seconds(family: Family, config: Config) -> float:
    """Return the time of one switch."""
    start = time.perf_counter()
    family.member(config)
    return time.perf_counter() - start


def figures(name: str, samples: Sequence[float], limit: float) -> list[Figure]:
    """Return the median, held against the limit, and the 95th percentile."""
    value, spread = median(np.asarray(samples) * 1e3)
    late = float(np.percentile(samples, 95)) * 1e3
    facts = {"samples": len(samples)}
    return [
        Figure(f"{name}: median", value, "ms", limit, spread, facts),
        Figure(f"{name}: 95th percentile", late, "ms", None, None, facts),
    ]
