"""Elastic patches: a vision transformer sees the same image in larger patches, and has fewer tokens to compute.

The patch embedding's kernel is resized so that a larger patch, if it shows a smaller one enlarged, gives the same token
(pseudo-inverse resize), and the table of positions is resized as an image is. Both stay one weight of the family, from
which every patch size computes its own; the largest network is the one that was given, of the smallest patches. The
paper's claim: trained over all sizes, one set of weights does as well at each as a network trained for it alone. Patch
sizes are also what MCUFormer (Liang, Wang, Xu, Tang, Zhou, Lu, 2023, arXiv 2310.16898) adds to a search for memory.

This implementation differs. The paper keeps kernel and positions in sizes of their own (32 pixels, 7 by 7), from which
all others come; here the given network's are the ones that are kept, and only larger patches are offered, of sizes that
divide the image. Its sizes are drawn evenly in training, which is a recipe's business here. Offered are convolutions
without padding whose windows lie side by side, with a table of positions that is added to their tokens; what else of a
network counts its tokens (windows, tables of relative positions, sizes written as numbers) cannot be seen, and fails
when a member runs. Members that are graphs of operations cannot change their patches.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from math import prod
from typing import TYPE_CHECKING, Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.fx import Node

from ...checks import PliantError, WrongShapeError
from ...graph.trace import Call
from ...space.choice import Choice, Option
from ...technique import Elastic, Paper, Stage
from ._convolutions import in_conv2d

if TYPE_CHECKING:
    from ...family.draft import Draft
    from ...graph.analysis import Analysis
    from ...graph.nouns import Site

_PASSED = {"flatten", "transpose", "permute", "reshape", "view", "contiguous", "clone", "dropout"}


@dataclass(frozen=True)
class PatchSize(Elastic):
    """Choose how large the patches are that an image is cut into.

    Attributes:
        sizes: the sizes to choose from, in pixels; those that are larger than the network's own and divide its images
            are offered, and its own.
    """

    sizes: tuple[int, ...] = (2, 4, 8, 16, 20, 24, 28, 32)

    paper: ClassVar[Paper | None] = Paper(
        "Beyer, Izmailov, Kolesnikov, Caron, Kornblith, Zhai, Minderer, Tschannen, Alabdulmohsin, Pavetic",
        2022,
        "FlexiViT: One Model for All Patch Sizes",
        "2212.08013",
    )
    stage: ClassVar[Stage | None] = Stage.KERNEL

    def __post_init__(self) -> None:
        """Check the fields."""
        if not self.sizes or any(not isinstance(size, int) or size < 1 for size in self.sizes):
            raise WrongShapeError(f"PatchSize.sizes are whole numbers, such as (16, 32); got {self.sizes!r}")

    def choices(self, analysis: Analysis) -> Sequence[Choice]:
        """Return one choice per patch embedding, the largest patches first."""
        return tuple(Choice(f"{e.site.name}.patch", e.sizes) for e in self._embeddings(analysis) if len(e.sizes) > 1)

    def apply(self, draft: Draft, options: Mapping[str, Option]) -> None:
        """Resize kernels and positions.

        Raises:
            PliantError: members are graphs of operations.
        """
        for found in self._embeddings(draft.analysis):
            size = int(options.get(f"{found.site.name}.patch", found.size))  # type: ignore[arg-type]
            if size == found.size:
                continue
            if not draft.modules:
                raise PliantError(
                    "members of this family are graphs of operations, whose patches cannot change: leave PatchSize out "
                    "(family.why_graph says why they are graphs)"
                )
            grid = (found.grid[0] * found.size // size, found.grid[1] * found.size // size)
            draft.map(found.site.weight, partial(resized_kernel, size=size))
            draft.map(found.table, partial(resized_positions, before=found.grid, after=grid))
            draft.then(partial(_patch, found.site.name, size))

    def _embeddings(self, analysis: Analysis) -> list[_Embedding]:
        rows = []
        for site in analysis.sites:
            table = _table(analysis, site) if site.kind == "conv2d" and _side_by_side(site) else None
            if table is not None:
                height, width = (int(extent) for extent in site.node.meta["val"].shape[2:])
                size, grid = site.shape[2], (height, width)
                larger = [s for s in set(self.sizes) if s > size and not any(g * size % s for g in grid)]
                rows.append(_Embedding(site, table, size, grid, (*sorted(larger, reverse=True), size)))
        return rows


@dataclass(frozen=True)
class _Embedding:
    """A patch embedding: its convolution, the table of positions, its patches' size, how many there are, and sizes."""

    site: Site
    table: str
    size: int
    grid: tuple[int, int]
    sizes: tuple[int, ...]


def resized_kernel(weight: Tensor, size: int) -> Tensor:
    """Return the kernel of larger patches that gives for an enlarged patch what ``weight`` gives for the patch.

    Args:
        weight: ``(outputs, inputs, P, P)``.
        size: P of the result.
    """
    before = weight.shape[-1]
    pixels = torch.eye(before**2, dtype=torch.float64).view(-1, 1, before, before)
    enlarge = F.interpolate(pixels, (size, size), mode="bilinear").flatten(1)  # (P * P, size * size)
    back = torch.linalg.pinv(enlarge).t().to(weight)
    return (weight.flatten(2) @ back).view(*weight.shape[:2], size, size)


def resized_positions(table: Tensor, before: tuple[int, int], after: tuple[int, int]) -> Tensor:
    """Return a table of positions, ``(..., tokens, width)``, for another grid; rows before the grid's stay."""
    count = table.shape[-2] - prod(before)
    first, rest = table[..., :count, :], table[..., count:, :]
    image = rest.reshape(-1, *before, table.shape[-1]).permute(0, 3, 1, 2)
    image = F.interpolate(image, after, mode="bilinear", antialias=True)
    rest = image.permute(0, 2, 3, 1).reshape(*table.shape[:-2], prod(after), table.shape[-1])
    return torch.cat([first, rest], -2)


def _patch(path: str, size: int, net: nn.Module) -> None:
    layer: Any = dict(net.named_modules())[path]
    layer.kernel_size = layer.stride = (size, size)


def _side_by_side(site: Site) -> bool:
    call = Call(site.node)
    sides, stride, padding = site.shape[2:], list(call["stride"]), call["padding"]
    plain = padding == "valid" or (not isinstance(padding, str) and not any(padding))
    return (
        plain
        and sides[0] == sides[1]
        and all(step == sides[0] for step in stride)
        and all(step == 1 for step in call["dilation"])
        and in_conv2d(site.node)
    )


def _table(analysis: Analysis, site: Site) -> str | None:
    """Return the table of positions that is added to the tokens of a patch embedding, if they come last in it."""
    shape = site.node.meta["val"].shape
    patches, width = prod(int(size) for size in shape[2:]), int(shape[1])
    node = site.node
    while len(node.users) == 1:
        after = next(iter(node.users))
        name = Call(after).name if hasattr(after.target, "_schema") else ""
        if name == "cat" and list(Call(after)["tensors"])[-1] is not node:
            return None
        if name in ("add", "add_"):
            other = next((arg for arg in after.all_input_nodes if arg is not node), None)
            table = _parameter(analysis, other) if other is not None else None
            if table is not None:
                sizes = [int(size) for size in analysis.trace.nodes[table].meta["val"].shape]
                fits = len(sizes) in (2, 3) and sizes[-1] == width and sizes[-2] >= patches
                return table if fits and prod(sizes[:-2]) == 1 else None
        if name not in _PASSED | {"cat"}:
            return None
        node = after
    return None


def _parameter(analysis: Analysis, node: Node) -> str | None:
    if node.op != "placeholder" or len(node.users) > 1:
        return None
    capture = analysis.capture
    target = capture.inputs[str(node.target)].target
    name = capture.aliases.get(target, target) if target else None
    return name if name in analysis.trace.nodes else None
