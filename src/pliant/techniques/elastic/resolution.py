"""Elastic resolution: a member sees its images smaller than they come, and computes the less for it.

A convolution's cost grows with the pixels that it slides over, and a network that averages over places at its end takes
images of any size. So the size at which images are looked at is one more choice, with the same weights at each. The
paper's claim: trained together with depth, width and kernels, one set of weights serves all resolutions, and for a low
latency the best member often takes small images rather than being thin.

This implementation differs. In the paper the data loader resizes the images, all those of a batch alike; here the
member does it, just before its first convolution, so that every member takes the same input and whatever holds it (a
study, an exported file) needs to know nothing of resolutions. Where only the weights leave, to the user's own class,
the images must be resized for it as :class:`Resized` does. Offered are ``nn.Conv2d`` layers, called once, that alone
get the network's input, as it is or standardised. A size is offered if the captured graph runs at it and gives
outputs of the same shape: flattened maps, tables of positions and dense outputs (segmentation) rule it out. Members
that are graphs of operations cannot change their resolution.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.fx import Interpreter, Node
from torch.utils import _pytree as pytree

from ...checks import PliantError, WrongShapeError
from ...graph.trace import Call
from ...space.choice import Choice, Option
from ...technique import Elastic, Paper, Stage
from ._convolutions import in_conv2d

if TYPE_CHECKING:
    from ...family.draft import Draft
    from ...graph.analysis import Analysis
    from ...graph.nouns import Site

_POINTWISE = {"add", "sub", "mul", "div", "to", "_to_copy", "contiguous", "clone", "neg"}


@dataclass(frozen=True)
class Resolution(Elastic):
    """Choose the size at which images are looked at.

    Attributes:
        ratios: shares of the example's height and width, above 0 and up to 1; 1 is always offered.
        multiple: heights and widths are rounded to multiples of this, as networks that halve their maps want it.
    """

    ratios: tuple[float, ...] = (0.5, 0.625, 0.75, 0.875, 1.0)
    multiple: int = 4

    paper: ClassVar[Paper | None] = Paper(
        "Cai, Gan, Wang, Zhang, Han",
        2020,
        "Once-for-All: Train One Network and Specialize it for Efficient Deployment",
        "1908.09791",
    )
    stage: ClassVar[Stage | None] = Stage.KERNEL

    def __post_init__(self) -> None:
        """Check the fields."""
        if not self.ratios or any(not 0 < ratio <= 1 for ratio in self.ratios):
            raise WrongShapeError(
                f"Resolution.ratios are shares of the full size, each above 0 and at most 1; got {self.ratios}"
            )
        if self.multiple < 1:
            raise WrongShapeError(f"Resolution.multiple is at least 1; got {self.multiple}")

    def choices(self, analysis: Analysis) -> Sequence[Choice]:
        """Return one choice per convolution that looks at images: their heights in pixels, widths in proportion."""
        found = []
        for site, image in _entries(analysis):
            whole = _size(image)
            sizes = [size for size in self._sizes(whole) if size != whole and _runs_at(analysis, site.node, size)]
            if sizes:
                found.append(Choice(f"{site.name}.resolution", (*(height for height, _ in sizes), whole[0])))
        return tuple(found)

    def apply(self, draft: Draft, options: Mapping[str, Option]) -> None:
        """Let the convolutions see smaller images.

        Raises:
            PliantError: members are graphs of operations.
        """
        for site, image in _entries(draft.analysis):
            whole = _size(image)
            height = int(options.get(f"{site.name}.resolution", whole[0]))  # type: ignore[arg-type]
            if height == whole[0]:
                continue
            if not draft.modules:
                raise PliantError(
                    "members of this family are graphs of operations, whose sizes cannot change: leave Resolution out "
                    "(family.why_graph says why they are graphs)"
                )
            draft.then(partial(_see, site.name, (height, dict(self._sizes(whole))[height])))

    def _sizes(self, whole: tuple[int, int]) -> list[tuple[int, int]]:
        """Return heights and widths, the smallest first, one of each height."""
        step, rows = self.multiple, {whole[0]: whole[1]}
        for ratio in sorted(self.ratios):
            height, width = (min(full, max(step, round(ratio * full / step) * step)) for full in whole)
            rows.setdefault(height, width)
        return sorted(rows.items())


class Resized:
    """A hook before a convolution: its images ``(B, C, H, W)`` become ``size``, bilinearly and without aliasing.

    Args:
        size: height and width in pixels.
    """

    def __init__(self, size: tuple[int, int]) -> None:
        self.size = size

    def __call__(
        self, module: nn.Module, args: tuple[Tensor, ...], kwargs: Mapping[str, Tensor]
    ) -> tuple[tuple[Tensor], dict[str, Tensor]]:
        """Return the convolution's arguments, the image resized; the user's code may give it by keyword."""
        (image,) = args or kwargs.values()
        return (F.interpolate(image, self.size, mode="bilinear", align_corners=False, antialias=True),), {}


def _see(path: str, size: tuple[int, int], net: nn.Module) -> None:
    net.get_submodule(path).register_forward_pre_hook(Resized(size), with_kwargs=True)


def _size(image: Node) -> tuple[int, int]:
    height, width = image.meta["val"].shape[-2:]
    return int(height), int(width)


def _entries(analysis: Analysis) -> list[tuple[Site, Node]]:
    """Return the convolutions that alone get an image that the network is given, and that node."""
    found = []
    calls = Counter(site.name for site in analysis.sites)
    for site in analysis.sites:
        # A module that is called again further on would resize there too.
        if site.kind != "conv2d" or calls[site.name] > 1 or not in_conv2d(site.node):
            continue
        node: Any = Call(site.node)["input"]
        image = node
        while image is not None and image.op == "call_function":
            image = _before(image)
        if image is not None and image.op == "placeholder" and str(image.target) in _given(analysis):
            found.append((site, node))
    return found


def _before(node: Node) -> Node | None:
    """Return the image that a pointwise operation changes, if the operation knows nothing of its size."""
    name = Call(node).name.rstrip("_") if hasattr(node.target, "_schema") else ""
    if name not in _POINTWISE or len(node.users) > 1:
        return None
    others = [arg for arg in node.all_input_nodes if tuple(arg.meta["val"].shape) != tuple(node.meta["val"].shape)]
    if any(tuple(arg.meta["val"].shape[-2:]) not in ((), (1,), (1, 1)) for arg in others):
        return None
    same = [arg for arg in node.all_input_nodes if arg not in others]
    return same[0] if len(same) == 1 else None


def _given(analysis: Analysis) -> set[str]:
    """Return the names of the inputs that one operation alone uses."""
    capture = analysis.capture
    rows = [node for node in capture.graph.nodes if node.op == "placeholder" and len(node.users) == 1]
    return {str(node.target) for node in rows if capture.inputs[str(node.target)].kind.name == "USER_INPUT"}


def _runs_at(analysis: Analysis, convolution: Node, size: tuple[int, int]) -> bool:
    """Return whether the captured graph computes outputs of the same shapes where a convolution sees smaller images."""
    graph = analysis.capture.graph
    image = Call(convolution)["input"]

    class Smaller(Interpreter):
        """Runs on tensors without values."""

        def run_node(self, n: Node) -> Any:
            if n.op == "placeholder":
                val = n.meta.get("val")
                return torch.empty(val.shape, dtype=val.dtype, device="meta") if isinstance(val, Tensor) else val
            if n is convolution:
                whole = self.env[image]
                self.env[image] = whole.new_empty((*whole.shape[:-2], *size))
            return super().run_node(n)

        def call_function(self, target: Any, args: Any, kwargs: Any) -> Any:
            return super().call_function(target, args, kwargs | ({"device": "meta"} if "device" in kwargs else {}))

    try:
        with torch.no_grad():
            found = Smaller(graph.owning_module or nn.Module(), graph=graph).run(enable_io_processing=False)
    except (RuntimeError, ValueError, TypeError, IndexError):  # whatever an operation has against the size
        return False
    (output,) = graph.find_nodes(op="output")
    whole = [leaf.meta.get("val") if isinstance(leaf, Node) else leaf for leaf in pytree.tree_leaves(output.args)]
    return _shapes(pytree.tree_leaves(found)) == _shapes(whole)


def _shapes(values: Sequence[Any]) -> list[tuple[int, ...]]:
    return [tuple(value.shape) for value in values if isinstance(value, Tensor)]
