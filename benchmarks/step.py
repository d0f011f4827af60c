"""A training step of a member against the same network extracted and standing alone.

Forward, loss, backward and the clearing of gradients count, of either the quicker way
(``family.zero_grad(set_to_none=False)``, which clears what members wrote; ``set_to_none=True`` for the network alone):
at most 1.05x where all the member's tensors are views, 1.15x where some are gathered. Beside it, without a limit, the
same with a step of SGD with momentum: the family's optimizer steps on every weight of the family, that of the network
alone on its own weights only.

The C library is told to keep its heap, for both sides (:func:`benchmarks._clocks.keep_heap` says why).

Arguments: names of networks (``digits``, ``vit_s``), and numbers of threads (``1``, ``2``); all by default.
``repeats=150`` repeats every step so often, where a figure lies at its limit. ``trim`` leaves the C library as it is.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pliant import Depth, Family, Width
from pliant.measure.timing import torch_threads

from ._clocks import against, keep_heap
from ._figures import Figure, ratio
from ._members import config_of
from ._networks import digits_vit, vit_s

BATCH = 64
REPEATS = {"digits": 120, "vit_s": 40}
VIEWS, GATHERS = 1.05, 1.15
NETWORKS = {"digits": (digits_vit, 10), "vit_s": (vit_s, 100)}

# A member by the share of each kind of axis that stays, and of the blocks.
MEMBERS: Mapping[str, Mapping[str, float]] = {
    "hidden layers 1/2": {"width": 0.5},
    "stream 1/2, hidden layers 1/2": {"stream": 0.5, "width": 0.5},
    "stream 1/4, hidden layers 1/4, half the blocks": {"stream": 0.25, "width": 0.25, "depth": 0.5},
    "heads 1/2": {"heads": 0.5},
    "stream, hidden layers and heads 1/2": {"stream": 0.5, "width": 0.5, "heads": 0.5},
    "all 1/4, half the blocks": {"stream": 0.25, "width": 0.25, "heads": 0.25, "depth": 0.5},
}


def run(arguments: Sequence[str]) -> list[Figure]:
    """Measure every member of both families, with one thread and with two."""
    warnings.simplefilter("ignore")
    torch.manual_seed(0)
    if "trim" not in arguments:
        keep_heap()
    asked = [int(argument.removeprefix("repeats=")) for argument in arguments if argument.startswith("repeats=")]
    figures = []
    for name in [argument for argument in arguments if argument in NETWORKS] or NETWORKS:
        make, classes = NETWORKS[name]
        net, (inputs,) = make(BATCH)
        family = Family(net, (inputs[:2],), [Width(kinds=("width", "heads", "stream")), Depth()])
        targets = torch.randint(0, classes, (BATCH,))
        for threads in [int(argument) for argument in arguments if argument.isdigit()] or (1, 2):
            with torch_threads(threads):
                for what, shares in MEMBERS.items():
                    repeats = asked[0] if asked else REPEATS[name]
                    figures += compare(family, config_of(family, shares), (inputs, targets), (name, what), repeats)
    return figures


def compare(
    family: Family, config: Mapping[str, Any], batch: tuple[Tensor, Tensor], names: tuple[str, str], repeats: int
) -> Iterator[Figure]:
    """Time one member against its extraction, without an optimizer and with one."""
    family.forget()
    alone = family.extract(config).train()
    family.model.train()
    gathered = _gathered(family, config)

    # A learning rate of zero keeps the weights what they are; the work is the same.
    optimizers = [torch.optim.SGD(n.parameters(), lr=0.0, momentum=0.9) for n in (family.model, alone)]

    def member() -> None:
        family.zero_grad(set_to_none=False)
        step(family.member(config), batch)

    def standing_alone() -> None:
        optimizers[1].zero_grad(set_to_none=True)
        step(alone, batch)

    title, threads = f"{names[0]}: {names[1]}", torch.get_num_threads()
    facts = {"threads": threads, "gathered tensors": gathered}
    own, other = against(member, standing_alone, repeats)
    yield ratio(f"{title}, {threads} thread{'s' * (threads > 1)}", own, other, GATHERS if gathered else VIEWS, **facts)
    if threads == 1:
        own, other = against(_and(member, optimizers[0].step), _and(standing_alone, optimizers[1].step), repeats)
        yield ratio(f"{title}, 1 thread, with SGD", own, other, None, **facts)


def step(net: nn.Module, batch: tuple[Tensor, Tensor]) -> None:
    """Run forward, loss and backward."""
    F.cross_entropy(net(batch[0]), batch[1]).backward()


def _and(first: Callable[[], object], second: Callable[[], object]) -> Callable[[], None]:
    def both() -> None:
        first()
        second()

    return both


def _gathered(family: Family, config: Mapping[str, Any]) -> int:
    """Return how many of a member's parameters are copies: they do not lie in the family's storage."""
    shared = {p.untyped_storage().data_ptr() for p in family.parameters()}
    return sum(p.untyped_storage().data_ptr() not in shared for p in family.member(config).parameters())
