"""Both realisations of a slicing, each checking the other."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from .analysis import Analysis
from .graph_form import build_graph_form
from .module_form import ModuleForm
from .slicing import Slicing
from .tensors import full_tensors


def sliced_copy(
    model: nn.Module, slicing: Slicing, form: str = "module", rescale: bool = False, jitter: bool = False
) -> nn.Module:
    """Return an independent smaller network of ``model`` in one form (``"module"`` or ``"graph"``), in eval mode.

    With ``jitter`` the parameters get small random changes, the same in both forms: a fresh network has zeros and ones
    in places where they would hide a difference.
    """
    tensors = full_tensors(model, slicing.analysis.capture)

    def supply(name: str) -> Tensor:
        tensor = tensors[name]
        cut = slicing.cut(name, tensor.detach()).clone()
        if jitter and isinstance(tensor, nn.Parameter) and cut.is_floating_point():
            generator = torch.Generator().manual_seed(zlib.crc32(name.encode()))
            noise = torch.randn(cut.shape, generator=generator).to(cut)
            cut += 0.05 * noise * (1 if cut.dim() < 2 else min(1.0, cut[0].numel() ** -0.5))
        return nn.Parameter(cut, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else cut

    if form == "graph":
        return build_graph_form(slicing, supply, rescale).eval()
    return ModuleForm(model, slicing.analysis).build(slicing, supply).eval()


def outputs(net: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any]) -> list[Tensor]:
    """Return the tensors of a network's output, in order, computed without gradients."""
    with torch.no_grad():
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
        if not a.dtype.is_floating_point:
            worst = max(worst, float("inf") if not torch.equal(a, b) else 0.0)
            continue
        scale = max(float(a.abs().max()), 1e-6)
        gap = float((a - b).abs().max()) / scale
        worst = max(worst, gap if gap == gap else float("inf"))
    return worst


def compare_forms(model: nn.Module, slicing: Slicing, analysis: Analysis) -> tuple[float, bool, str]:
    """Run both forms of a slicing on the example and compare them.

    Returns:
        The relative difference (inf where one form fails), whether the graph form had to rescale constants, and the
        module form's error message, if it failed.
    """
    args, kwargs = analysis.capture.args, analysis.capture.kwargs
    plain = outputs(sliced_copy(model, slicing, "graph", jitter=True), args, kwargs)
    try:
        own = outputs(sliced_copy(model, slicing, "module", jitter=True), args, kwargs)
    except Exception as error:  # noqa: BLE001  (any failure of the user's code on smaller sizes: use the graph form)
        return float("inf"), False, f"{type(error).__name__}: {error}"
    gap = difference(own, plain)
    if gap <= 1e-5:
        return gap, False, ""
    again = difference(own, outputs(sliced_copy(model, slicing, "graph", rescale=True, jitter=True), args, kwargs))
    return (again, True, "") if again < gap else (gap, False, "")
