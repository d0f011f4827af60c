"""A training step of a member against the same network extracted and standing alone.

Forward, loss, backward and the clearing of gradients (``set_to_none``) count: at most 1.05x where all the member's
tensors are views, 1.15x where some are gathered. Beside it, without a limit, the same with an optimizer step on the
member's own elements: for the member the optimizer is the family's and steps on every weight of the family.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pliant import Depth, Family, Width
from pliant.measure.timing import interleave, torch_threads

from ._figures import Figure, ratio
from ._networks import digits_vit, vit_s

BATCH = 64
REPEATS = 20
VIEWS, GATHERS = 1.05, 1.15

# A member by the share of each kind of axis that stays, and of the blocks.
MEMBERS: Mapping[str, Mapping[str, float]] = {
    "hidden layers 1/2": {"width": 0.5},
    "stream 1/2, hidden layers 1/2": {"stream": 0.5, "width": 0.5},
    "stream 1/4, hidden layers 1/4, half the blocks": {"stream": 0.25, "width": 0.25, "depth": 0.5},
    "heads 1/2": {"heads": 0.5},
    "stream, hidden layers and heads 1/2": {"stream": 0.5, "width": 0.5, "heads": 0.5},
    "all 1/4, half the blocks": {"stream": 0.25, "width": 0.25, "heads": 0.25, "depth": 0.5},
}


def config_of(family: Family, shares: Mapping[str, float]) -> dict[str, Any]:
    """Return the config whose options are nearest to these shares of each kind of axis; the rest stays whole."""
    kinds = {axis.name: axis.kind for axis in family.analysis.axes}
    config = {}
    for choice in family.space.choices:
        share = shares.get(kinds.get(choice.name, "depth"), 1.0)
        config[choice.name] = min(choice.options, key=lambda o: abs(o - share * choice.largest))  # type: ignore[operator]
    return config


def run(arguments: Sequence[str]) -> list[Figure]:
    """Measure every member of both families, with one thread and with two."""
    warnings.simplefilter("ignore")
    torch.manual_seed(0)
    figures = []
    for name, make, classes in (("digits ViT", digits_vit, 10), ("ViT-S", vit_s, 100)):
        if arguments and name not in arguments:
            continue
        net, (inputs,) = make(BATCH)
        family = Family(net, (inputs[:2],), [Width(), Depth()])
        targets = torch.randint(0, classes, (BATCH,))
        for threads in (1, 2):
            with torch_threads(threads):
                for what, shares in MEMBERS.items():
                    figures += list(compare(family, config_of(family, shares), (inputs, targets), (name, what)))
    return figures


def compare(
    family: Family, config: Mapping[str, Any], batch: tuple[Tensor, Tensor], names: tuple[str, str]
) -> Iterator[Figure]:
    """Time one member against its extraction, without an optimizer and with one."""
    family.forget()
    alone = family.extract(config).train()
    family.model.train()
    gathered = sum(type(a).__name__ == "GatherAlias" for a in _aliases(family, config))
    facts = {"threads": torch.get_num_threads(), "gathered": gathered}

    def member() -> None:
        family.model.zero_grad(set_to_none=True)
        step(family.member(config), batch)

    def standing_alone() -> None:
        alone.zero_grad(set_to_none=True)
        step(alone, batch)

    title = f"{names[0]}, {names[1]}"
    own, other = interleave([member, standing_alone], REPEATS)
    yield ratio(title, own, other, GATHERS if gathered else VIEWS, **facts)
    own, other = interleave([_stepping(member, family.model), _stepping(standing_alone, alone)], REPEATS)
    yield ratio(f"{title}, with SGD over the whole family", own, other, None, **facts)


def step(net: nn.Module, batch: tuple[Tensor, Tensor]) -> None:
    """Run forward, loss and backward."""
    F.cross_entropy(net(batch[0]), batch[1]).backward()


def _stepping(call: Callable[[], None], net: nn.Module) -> Callable[[], None]:
    # A learning rate of zero keeps the weights what they are; the work is the same.
    optimizer = torch.optim.SGD(net.parameters(), lr=0.0, momentum=0.9)

    def both() -> None:
        call()
        optimizer.step()

    return both


def _aliases(family: Family, config: Mapping[str, Any]) -> list[Any]:
    family.member(config)
    _, aliases = family._members[family.space.check(config)]
    return [*aliases.views, *aliases.gathers.values()]
