"""A blend: all members at once, each weight the sum of what members hold of it, weighted by how probable they are.

Choices are taken as independent. An entry of a weight is kept by some options of each choice; multiplied by the
probability that all choices keep it, the weight is exactly the sum over all members of their slices set in zeros, each
weighted by its probability. So a blend of any number of members costs one forward pass and no memory but one product
per weight (weight superposition: Sukthanker, Krishnakumar, Safari and Hutter, 2023, Weight-Entanglement Meets
Gradient-Based Neural Architecture Search, arXiv 2312.10440). A block that may be left out is blended with its input.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils import _pytree as pytree

from ..checks import PliantError, VerificationError, WrongShapeError
from ..graph.nouns import Block
from ..graph.realise import difference, outputs
from ..graph.slicing import Pick, Slicing
from ..space.config import Config
from .statistics import keeping_modes

if TYPE_CHECKING:
    from .draft import Draft
    from .family import Family

Probabilities = Mapping[str, Tensor]


class Blend:
    """The blends of a family.

    Args:
        family: its techniques cut axes and leave out blocks, and do nothing else.

    Raises:
        PliantError: a technique does more.
        VerificationError: a blend of one member alone is not that member: zeros do not stand for what is cut, as where
            a norm runs over it.
    """

    def __init__(self, family: Family) -> None:
        self.family = family
        self._kept: dict[str, list[tuple[int, str, Tensor]]] = {}  # weight: dimension, choice, (options, length)
        self._gates: list[tuple[Block, str, Tensor]] = []  # choice, (options): whether the block stays
        full = {choice.name: choice.largest for choice in family.space.choices}
        for choice in family.space.choices:
            drafts = [family.draft(Config({**full, choice.name: option})) for option in choice.options]
            self._take_up(choice.name, drafts, drafts[choice.options.index(choice.largest)])
        self._check()

    def _take_up(self, choice: str, drafts: Sequence[Draft], base: Draft) -> None:
        """Learn what each option of a choice keeps, the others being largest as in ``base``."""
        analysis = self.family.analysis
        if any(draft.changes for draft in drafts):
            raise PliantError(
                f"the choice {choice!r} does more than cut axes and leave out blocks: members cannot be blended. "
                "Leave that technique out of the family, or train with a recipe that runs members one by one"
            )
        moved = {axis for draft in drafts for axis in draft.kept if draft.kept[axis] != base.kept.get(axis)}
        rows = [Slicing(analysis, {axis: draft.kept[axis] for axis in moved if axis in draft.kept}) for draft in drafts]
        for name, tensor in self.family.tensors().items():
            picks = [slicing.picks(name) for slicing in rows]
            for dim, size in enumerate(tensor.shape if any(picks) else ()):
                if any(pick[dim] is not None for pick in picks):
                    mask = torch.stack([_mask(pick[dim], size) for pick in picks])
                    self._kept.setdefault(name, []).append((dim, choice, mask))
        for block in {name for draft in drafts for name in draft.dropped}:
            stays = torch.tensor([float(block not in draft.dropped) for draft in drafts])
            self._gates.append((analysis.block(block), choice, stays))

    def _check(self) -> None:
        """Compare the blend of one member alone with that member, for the smallest one."""
        family = self.family
        args, kwargs = family.example()
        config = family.space.smallest()
        member = family.member(config)
        buffers = [(buffer, buffer.clone()) for net in (family.model, member) for buffer in net.buffers()]
        with keeping_modes(family.model), keeping_modes(member):
            # Normalisation by the batch: running statistics would be another member's.
            for module in (*family.model.modules(), *member.modules()):
                module.training = isinstance(module, nn.modules.batchnorm._NormBase)
            found = outputs(_Called(self, self.alone(config)), args, kwargs)
            gap = difference(found, outputs(member, args, kwargs))
            with torch.no_grad():
                for buffer, before in buffers:
                    buffer.copy_(before)
        if gap > 1e-4:
            raise VerificationError(
                f"blended alone, the smallest member differs from itself by {gap:.1e} (at most 1e-4 expected): zeros "
                "do not stand for what is cut, as where a norm runs over it; cut widths and heads, not streams, or "
                "train with a recipe that runs members one by one"
            )

    def alone(self, config: Mapping[str, Any]) -> dict[str, Tensor]:
        """Return the probabilities that make one member certain: a one-hot vector per choice."""
        found = {}
        for choice in self.family.space.choices:
            row = torch.zeros(len(choice.options))
            row[choice.options.index(config[choice.name])] = 1.0
            found[choice.name] = row
        return found

    def __call__(self, probabilities: Probabilities, *args: Any, **kwargs: Any) -> Any:
        """Run the blend in the model's mode.

        Args:
            probabilities: for each choice a vector, as long as it has options; gradients reach them.
            args: what the model takes.
            kwargs: what the model takes.

        Raises:
            WrongShapeError: a choice's probabilities are missing, or of another length.
        """
        for choice in self.family.space.choices:
            given = probabilities.get(choice.name)
            if given is None or given.shape != (len(choice.options),):
                raise WrongShapeError(
                    f"choice {choice.name!r} has {len(choice.options)} options; its probabilities are "
                    f"{'missing' if given is None else tuple(given.shape)}"
                )
        weights = {}
        for name, tensor in self.family.tensors().items():
            if name in self._kept and isinstance(tensor, nn.Parameter):
                weights[name] = self._weighted(name, tensor, probabilities)
        everywhere = {
            place: weight for name, weight in weights.items() for place in self.family.places.get(name, (name,))
        }
        with self._gated(probabilities):
            return functional_call(self.family.model, everywhere, args, kwargs)

    def _weighted(self, name: str, weight: Tensor, probabilities: Probabilities) -> Tensor:
        for dim, choice, mask in self._kept[name]:
            shares = probabilities[choice].to(weight) @ mask.to(weight)
            weight = weight * shares.view([-1 if at == dim else 1 for at in range(weight.dim())])
        return weight

    @contextmanager
    def _gated(self, probabilities: Probabilities) -> Iterator[None]:
        """Let blocks that may be left out be blended with their inputs."""
        stay: dict[str, tuple[Block, Tensor]] = {}
        for block, choice, stays in self._gates:
            share = (probabilities[choice].to(stays.dtype).to(stays.device) * stays).sum()
            before = stay.get(block.name)
            stay[block.name] = (block, share if before is None else before[1] * share)
        handles = [
            self.family.model.get_submodule(block.module).register_forward_hook(_Gate(block, share), with_kwargs=True)
            for block, share in stay.values()
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()


class _Gate:
    """Blends what a block gives with what it got; a branch, with nothing."""

    def __init__(self, block: Block, share: Tensor) -> None:
        self._interface, self._share, self._branch = block.interface, share, block.interface.branch

    def __call__(self, module: nn.Module, args: Any, kwargs: Any, result: Any) -> Any:
        flat, _ = pytree.tree_flatten((args, kwargs))
        out, spec = pytree.tree_flatten(result)
        hidden, share = flat[self._interface.hidden], self._share.to(out[self._interface.result])
        given = share * out[self._interface.result]
        out[self._interface.result] = given if self._branch else given + (1 - share) * hidden
        return pytree.tree_unflatten(out, spec)


class _Called(nn.Module):
    """A blend with fixed probabilities, as a module."""

    def __init__(self, blend: Blend, probabilities: Probabilities) -> None:
        super().__init__()
        self.model = blend.family.model
        self._blend, self._probabilities = blend, probabilities

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self._blend(self._probabilities, *args, **kwargs)


def _mask(pick: Pick, size: int) -> Tensor:
    mask = torch.zeros(size)
    if pick is None:
        return torch.ones(size)
    mask[pick if isinstance(pick, slice) else torch.from_numpy(np.ascontiguousarray(pick))] = 1.0
    return mask
