"""Both realisations of a slicing, each checking the other."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from ..checks import VerificationError, first_line
from .analysis import Analysis
from .capture import Capture
from .graph_form import GraphNet, Rescale, build_graph_form
from .module_form import ModuleForm
from .partial import embed
from .prepare import leaving_no_trace, own_copies
from .slicing import Slicing
from .tensors import Supply, full_tensors


def sliced_copy(
    model: nn.Module, slicing: Slicing, form: str = "module", rescale: Rescale = False, jitter: bool = False
) -> nn.Module:
    """Return an independent smaller network of ``model`` in one form (``"module"`` or ``"graph"``), in eval mode.

    With ``jitter`` the parameters get small random changes, the same in both forms: a fresh network has zeros and ones
    in places where they would hide a difference.
    """
    tensors = full_tensors(model, slicing.analysis.capture)

    def supply(name: str) -> Tensor:
        tensor = tensors[name]
        cut = slicing.cut(name, tensor.detach()).clone()
        if jitter and isinstance(tensor, nn.Parameter) and cut.is_floating_point() and cut.layout == torch.strided:
            generator = torch.Generator().manual_seed(zlib.crc32(name.encode()))
            noise = torch.randn(cut.shape, generator=generator).to(cut)
            # Weights large enough for attention to tell its keys apart: else a wrong scale would hardly show.
            cut += noise * (0.05 if cut.dim() < 2 else 0.3 * min(1.0, cut[0].numel() ** -0.5))
        return nn.Parameter(cut, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else cut

    if form == "graph":
        return graph_network(model, slicing, supply, rescale).eval()
    return ModuleForm(model, slicing.analysis).build(slicing, supply).eval()


def graph_network(model: nn.Module, slicing: Slicing, supply: Supply, rescale: Rescale = False) -> nn.Module:
    """Build the graph form of a slicing; where one submodule was analysed, it stands in a copy of the whole ``model``.

    See :func:`~pliant.graph.graph_form.build_graph_form` for the arguments.
    """
    net, capture = build_graph_form(slicing, supply, rescale), slicing.analysis.capture
    return embed(model, capture.scope.only, net, supply, capture.aliases) if capture.scope.only else net


def outputs(net: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any]) -> list[Tensor]:
    """Return the tensors of a network's output, in order, computed without gradients.

    A forward may write into its arguments, so it gets copies; and it may draw random numbers, so every network that is
    compared draws the same ones.
    """
    args, kwargs = own_copies(args, kwargs)
    with torch.no_grad(), leaving_no_trace(net, seed=0):
        result = net(*args, **kwargs)
    return [leaf for leaf in pytree.tree_leaves(result) if isinstance(leaf, Tensor)]


def difference(left: Sequence[Tensor], right: Sequence[Tensor]) -> float:
    """Return the largest absolute difference over all outputs, relative to their scale; inf where shapes differ."""
    if len(left) != len(right) or any(a.shape != b.shape for a, b in zip(left, right, strict=True)):
        return float("inf")
    worst = 0.0
    for a, b in zip(left, right, strict=True):
        if a.numel() == 0:
            continue
        if a.is_complex() and b.is_complex():
            a, b = torch.view_as_real(a), torch.view_as_real(b)
        if not a.dtype.is_floating_point:
            worst = max(worst, float("inf") if not torch.equal(a, b) else 0.0)
            continue
        scale = max(float(a.abs().max()), 1e-6)
        gap = float((a - b).abs().max()) / scale
        worst = max(worst, gap if gap == gap else float("inf"))
    return worst


def example_outputs(net: nn.Module, capture: Capture, graph: bool = False) -> list[list[Tensor]]:
    """Return the outputs of ``net`` on the example that was captured.

    Where one submodule was captured, its own outputs on the inputs that it gets come first, then the whole model's. A
    ``graph`` in a submodule's place may lack what the rest of the model asks of it: the whole is then left out.
    """
    scope, rows = capture.scope, []
    if scope.only:
        rows.append(outputs(net.get_submodule(scope.only), *scope.example))
    try:
        rows.append(outputs(net, capture.args, capture.kwargs))
    except Exception:
        if not (graph and scope.only):
            raise
    return rows


def worst(left: Sequence[Sequence[Tensor]], right: Sequence[Sequence[Tensor]]) -> float:
    """Return the largest :func:`difference` of what both have."""
    return max(difference(a, b) for a, b in zip(left, right, strict=False))


def compare_forms(model: nn.Module, slicing: Slicing, analysis: Analysis) -> tuple[float, bool, str]:
    """Run both forms of a slicing on the example and compare them.

    Returns:
        The relative difference (inf where one form fails), whether the graph form had to rescale constants, and the
        module form's error message, if it failed.

    Raises:
        VerificationError: a submodule was analysed, and neither form of it can stand in its model.
    """
    capture = analysis.capture

    def graph(rescale: Rescale) -> tuple[list[list[Tensor]], frozenset[str]]:
        net = sliced_copy(model, slicing, "graph", rescale, jitter=True)
        rescaled = next((part.rescaled for part in net.modules() if isinstance(part, GraphNet)), frozenset[str]())
        return example_outputs(net, capture, graph=True), rescaled

    plain, _ = graph(False)
    try:
        own = example_outputs(sliced_copy(model, slicing, "module", jitter=True), capture)
    except Exception as error:
        if capture.scope.only and len(plain) == 1:
            raise VerificationError(
                f"{capture.scope.only!r} cannot be made smaller inside this model: its class does not run with smaller "
                f"sizes ({type(error).__name__}: {first_line(error)}), and the model asks more of it than to be called"
            ) from error
        return float("inf"), False, f"{type(error).__name__}: {error}"
    gap, rescale = worst(own, plain), frozenset[str]()
    if gap > 1e-5:
        gap, rescale = _scales_that_follow(own, gap, graph)
    if 1e-5 < gap < 1e-2:  # in single precision, norms over few units make rounding errors large
        gap = min(gap, _in_double(model, slicing, rescale))
    return gap, bool(rescale), ""


def _scales_that_follow(
    own: Sequence[Sequence[Tensor]],
    gap: float,
    graph: Callable[[Rescale], tuple[list[list[Tensor]], frozenset[str]]],
) -> tuple[float, frozenset[str]]:
    """Find the classes of modules whose constants follow the sizes: some keep a scale, others compute it anew.

    ``gap`` is what none of them leaves; returns the least that was found, and its classes.
    """
    found, every = graph(True)
    best = min((gap, frozenset[str]()), (worst(own, found), every), key=lambda pair: pair[0])
    for owner in sorted(every) if len(every) > 1 else ():
        if best[0] > 1e-5:
            tried = best[1] ^ {owner}
            best = min(best, (worst(own, graph(tried)[0]), tried), key=lambda pair: pair[0])
    return best


def _in_double(model: nn.Module, slicing: Slicing, rescale: Rescale) -> float:
    """Return the difference of the forms in double precision, a thousand times as strictly; inf where they can't."""
    capture = slicing.analysis.capture
    if capture.scope.only:
        return float("inf")

    def double(value: Any) -> Any:
        return value.double() if isinstance(value, Tensor) and value.dtype == torch.float32 else value

    args, kwargs = pytree.tree_map(double, (capture.args, dict(capture.kwargs)))
    try:
        left, right = (
            outputs(sliced_copy(model, slicing, form, rescale, jitter=True).double(), args, kwargs)
            for form in ("graph", "module")
        )
    except Exception:  # noqa: BLE001  (code that insists on single precision)
        return float("inf")
    return 1e3 * difference(left, right)
