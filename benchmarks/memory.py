"""One copy of the weights and of the gradients, whatever the number of members alive.

Fifty members of a ViT-S family learn one after the other (the full network too) and are all kept. What counts is every
tensor's storage that is alive afterwards, each once, against the storages of the full network after one step of its
own; and the resident memory of the process, as information, since the allocator keeps what it once had.
"""

from __future__ import annotations

import gc
import random
import warnings
from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pliant import Depth, Family, Width

from ._figures import Figure
from ._networks import vit_s

MEMBERS = 50
BATCH = 4
MIB = 2**20


def run(arguments: Sequence[str]) -> list[Figure]:
    """Measure with views only (streams and hidden layers cut), and with gathered tensors (heads cut too)."""
    warnings.simplefilter("ignore")
    torch.manual_seed(0)
    return [*measure("views", ("width", "stream")), *measure("views and gathers", ("width", "heads"))]


def measure(what: str, kinds: tuple[str, ...]) -> list[Figure]:
    """Let members of one family learn and count what is alive."""
    net, (inputs,) = vit_s(BATCH)
    targets = torch.randint(0, 100, (BATCH,))
    family = Family(net, (inputs[:2],), [Width(kinds=kinds), Depth()])
    gc.collect()
    empty = alive()
    learn(net, inputs, targets)
    full = alive() - empty  # the gradients of the full network; its weights are in `empty`
    weights = sum(p.numel() * p.element_size() for p in net.parameters())
    resident = rss()
    rng = random.Random(0)
    kept = []
    for _ in range(MEMBERS):
        net.zero_grad(set_to_none=True)
        member = family.member(family.space.sample(rng))
        learn(member, inputs, targets)
        kept.append(member)
    learn(family.member(family.space.largest()), inputs, targets)
    gc.collect()
    more = alive() - empty - full
    facts = {"members": len(kept), "weights MiB": weights / MIB, "gradients MiB": full / MIB}
    limit = 0.01 * weights
    return [
        Figure(f"{what}: more than one copy of weights and gradients", more / MIB, "MiB", limit / MIB, None, facts),
        Figure(f"{what}: growth of resident memory", (rss() - resident) / MIB, "MiB", None, None, facts),
    ]


def learn(net: nn.Module, inputs: Tensor, targets: Tensor) -> None:
    """Run forward and backward."""
    F.cross_entropy(net(inputs), targets).backward()


def alive() -> int:
    """Return the bytes of all storages of tensors that Python can reach, gradients included, each once."""
    gc.collect()
    found: dict[int, int] = {}
    for thing in gc.get_objects():
        if not issubclass(type(thing), Tensor) or thing.is_meta:
            continue
        for tensor in (thing, thing.grad if thing.is_leaf else None):
            if tensor is not None and not isinstance(tensor, torch._subclasses.FakeTensor):
                storage = tensor.untyped_storage()
                found[storage.data_ptr()] = storage.nbytes()
    return sum(found.values())


def rss() -> int:
    """Return the resident memory of this process in bytes; 0 where the system does not say."""
    status = Path("/proc/self/statm")
    return int(status.read_text().split()[1]) * 4096 if status.exists() else 0
