"""Which form a family's members take: the user's own class, or the captured graph."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

from ..checks import VerificationError
from ..graph.realise import compare_forms, example_outputs, sliced_copy, worst
from ..graph.slicing import Slicing
from .statistics import keeping_modes

if TYPE_CHECKING:
    from .family import Family

_AGREE = 1e-5  # relative difference of two forms, at most


def settle_form(family: Family) -> None:
    """Use the user's own class where it computes what the graph says, the graph elsewhere.

    Raises:
        VerificationError: the captured graph does not compute what the model computes.
    """
    if any(tensor.is_meta for tensor in family.tensors().values()):
        return
    model, analysis, space = family.model, family.analysis, family.space
    with keeping_modes(model):
        model.eval()
        capture = analysis.capture
        whole = example_outputs(sliced_copy(model, Slicing(analysis), "graph"), capture, graph=True)
        # Twice: a network that keeps state may agree once by chance.
        gap = max(worst(whole, example_outputs(model, capture)) for _ in range(2))
        if gap > _AGREE:
            raise VerificationError(
                f"the captured graph differs from the model by {gap:.1e} on the example (at most 1e-5 expected); "
                "does its forward draw random numbers, or keep state?"
            )
        rng = random.Random(0)
        for config in (space.smallest(), space.sample(rng), space.sample(rng)):
            gap, rescale, error = compare_forms(model, family.draft(config).slicing(), analysis)
            family.rescale = family.rescale or rescale
            if gap > _AGREE:
                family.form = "graph"
                family.why_graph = error or f"the two forms differ by {gap:.1e}"
                break
