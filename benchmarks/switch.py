"""Switching the active config of a family of a transformer with twelve layers (ViT-S).

``family.member(config)`` for a new config (20 ms), a hundred of them, and for one that was asked for before (cached),
fifty of them over and over in random order, with the weights as they were (1 ms). Views only where hidden layers and
streams bend; where heads bend, the fused projections of the member are gathered in each forward. Cached members are
measured twice: while weights may change at any time, and under ``family.serving()``, the promise that they do not,
where what is gathered is kept; how much memory that takes is told. A forward right after the switch is timed too,
against a second one of the same member: what the switch may have put off would show there. And a forward of a member
against one of the same network standing alone: what each forward does for the family, its gathers most of all.
"""

from __future__ import annotations

import random
import time
import warnings
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

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
                figures += measure(family, f"{what}, {threads} thread{'s' * (threads > 1)}", args[0])
    return figures


def measure(family: Family, what: str, inputs: Tensor) -> list[Figure]:
    """Ask for a hundred new members, then five times for each of the last fifty again."""
    family.forget()
    rng = random.Random(0)
    configs = [family.space.sample(rng) for _ in range(CONFIGS)]
    again = [config for _ in range(ROUNDS) for config in rng.sample(configs[-CACHE:], CACHE)]
    made = figures(f"new member, {what}", [seconds(family, config) for config in configs], NEW)
    made += figures(f"cached member, {what}", [seconds(family, config) for config in again], CACHED)
    made += forwards(family, again, inputs, what)
    with family.serving():
        for config in configs[-CACHE:]:
            family.member(config)
        made += figures(f"cached member, serving, {what}", [seconds(family, config) for config in again], CACHED)
        made += forwards(family, again, inputs, f"serving, {what}")
        weights = sum(p.nbytes for p in family.parameters())
        made.append(Figure(f"copies kept, serving, {what}", family.copied_bytes / weights, "of the weights", 1.0))
    return made


def forwards(family: Family, configs: Sequence[Config], inputs: Tensor, what: str) -> list[Figure]:
    """Return how much longer a forward takes right after a switch than a second one, and than one of a lone network."""
    first, second, alone = [], [], []
    lone = {config: family.extract(config) for config in set(configs)}
    for config in configs:
        net = family.member(config)
        for samples, each in ((first, net), (second, net), (alone, lone[config])):
            start = time.perf_counter()
            each(inputs)
            samples.append(time.perf_counter() - start)
    late, late_spread = median((np.asarray(first) - np.asarray(second)) * 1e3)
    more, more_spread = median((np.asarray(second) - np.asarray(alone)) * 1e3)
    return [
        Figure(f"forward after a switch, {what}: longer by", late, "ms", None, late_spread),
        Figure(f"forward of a member, {what}: longer than alone by", more, "ms", None, more_spread),
    ]


def seconds(family: Family, config: Config) -> float:
    """Return the time of one switch."""
    start = time.perf_counter()
    family.member(config)
    return time.perf_counter() - start


def figures(name: str, samples: Sequence[float], limit: float | None) -> list[Figure]:
    """Return the median, held against the limit, and the 95th percentile."""
    value, spread = median(np.asarray(samples) * 1e3)
    late = float(np.percentile(samples, 95)) * 1e3
    facts = {"samples": len(samples)}
    return [
        Figure(f"{name}: median", value, "ms", limit, spread, facts),
        Figure(f"{name}: 95th percentile", late, "ms", None, None, facts),
    ]
