"""EfficientTDNN is elastic kernels without transforms, widths, depths and progressive shrinking on a speaker network.

Wang, Wei, Wang, Li and Meng (2021), EfficientTDNN: Efficient Architecture Search for Speaker Recognition, arXiv
2103.13581: its space, its cost and its training, put together of the parts that any family has.
"""

from __future__ import annotations

import math
import random
from functools import cache
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pliant.family import Family
from pliant.measure import Macs
from pliant.techniques.elastic.depth import Depth
from pliant.techniques.elastic.kernel_size import KernelSize
from pliant.techniques.elastic.width import Width
from pliant.techniques.train.progressive_shrinking import ProgressiveShrinking
from pliant.training import train
from tests.family.nets import vectors
from tests.helpers.tdnn import Tdnn
from tests.techniques.train.turns import plain

X = vectors(2, 20, 30)


@cache
def tdnn() -> Family:
    torch.manual_seed(0)
    kernels, widths = KernelSize(sizes=(1, 3, 5), transform=False), Width(ratios=(0.5, 1.0), multiple=4)
    family = Family(Tdnn().eval(), (X,), [kernels, widths, Depth()])
    assert family.form == "module"
    return family


def sampled(count: int) -> list[Any]:
    space, rng = tdnn().space, random.Random(0)
    return [space.largest(), space.smallest(), *(space.sample(rng) for _ in range(count))]


def test_members_are_counted_by_the_product_of_their_options() -> None:
    kernels, widths, depths, frames, embedding = 3**4, 2**3, 3, 2, 2  # stem and three blocks; aggregation; embedding
    assert tdnn().space.size == kernels * widths * depths * frames * embedding


def test_an_elastic_convolution_is_one_of_the_cropped_kernel() -> None:
    family = tdnn()
    net: Any = family.model
    conv = net.blocks[1].convs[0]  # dilated
    x = vectors(2, 8, 30)
    for size, width in ((1, 8), (3, 8), (3, 4), (5, 4)):
        config = family.space.complete({"blocks.1.convs.0.kernel": size, "blocks.1.width": width})
        alone: Any = family.extract(config)
        member: Any = family.member(config)
        fresh = nn.Conv1d(8, width, size, padding=2 * (size // 2), dilation=2)
        cut = (5 - size) // 2
        with torch.no_grad():
            fresh.weight.copy_(conv.weight[:width, :, cut : 5 - cut])
            fresh.bias.copy_(conv.bias[:width])  # type: ignore[union-attr]
        assert torch.equal(alone.blocks[1].convs[0].weight, fresh.weight)
        assert torch.equal(alone.blocks[1].convs[0](x), fresh(x))
        assert torch.equal(member.blocks[1].convs[0](x), fresh(x))


def test_extracted_members_compute_what_the_family_does() -> None:
    family = tdnn()
    for config in sampled(4):
        assert torch.allclose(family.extract(config)(X), family.ready(config)(X), atol=1e-6)


def formula(config: Any, batch: int, frames: int) -> int:
    """Multiply-accumulates by hand: outputs times inputs times kernel, per frame, and the two layers after pooling."""
    kept, units, embedded = config["blocks.depth"], config["aggregate.width"], config["embed.width"]
    each = 20 * 16 * config["stem.kernel"] + 3 * 16 * units
    for at in range(kept):
        width = config[f"blocks.{at}.width"]
        each += 16 * 16 + 8 * width * config[f"blocks.{at}.convs.0.kernel"] + (8 + width) * 16
    return batch * (frames * each + 2 * units * embedded + embedded * 6)


def hooked(net: nn.Module, x: Tensor) -> int:
    """Multiply-accumulates counted where they happen."""
    total = 0

    def count(layer: Any, args: Any, out: Tensor) -> None:
        nonlocal total
        total += out.numel() * math.prod(layer.weight.shape[1:])

    handles = [m.register_forward_hook(count) for m in net.modules() if isinstance(m, (nn.Conv1d, nn.Linear))]
    net(x)
    for handle in handles:
        handle.remove()
    return total


def test_costs_by_formula_by_hooks_and_as_measured_are_one() -> None:
    for config in sampled(6):
        net = tdnn().extract(config)
        wanted = formula(config, 2, 30)
        assert hooked(net, X) == wanted
        assert Macs((X,)).measure(net).value == wanted


@pytest.mark.slow
def test_shrinking_by_kernels_depths_and_widths_trains_members_of_all_sizes() -> None:
    """Six speakers, each a direction of the input: every member learns to tell them apart."""
    family = tdnn.__wrapped__()  # one of its own: it is changed
    voices = 2 * torch.randn(6, 20, 1, generator=torch.Generator().manual_seed(1))

    def batches(start: int) -> Any:
        while True:
            draw = torch.Generator().manual_seed(start)
            who = torch.randint(0, 6, (24,), generator=draw)
            yield voices[who] + torch.randn(24, 20, 30, generator=draw), who
            start += 1

    optimizer = torch.optim.AdamW(family.parameters(), lr=0.005, fused=True)
    train(family, batches, F.cross_entropy, steps=80, recipe=ProgressiveShrinking(), optimizer=optimizer,
          schedule=plain)  # fmt: skip
    given = batches(10_000)
    rows = [next(given) for _ in range(8)]
    x, who = torch.cat([row[0] for row in rows]), torch.cat([row[1] for row in rows])
    right = [float((family.extract(config)(x).argmax(1) == who).float().mean()) for config in sampled(3)]
    assert right[0] > 0.95  # the whole network
    assert min(right) > 0.5  # chance is a sixth
