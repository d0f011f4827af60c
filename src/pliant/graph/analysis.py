"""The analysis of a network: what bends, what does not, and why."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from typing import Any

from torch import nn

from ..checks import unknown
from .axes import find_axes
from .blocks import find_blocks
from .capture import Capture, capture
from .nouns import Axis, Block, Fixed, Site
from .prepare import unwrap
from .rules import RULES
from .sites import find_sites
from .trace import Tracer


@dataclass(frozen=True)
class Analysis:
    """The axes, blocks and sites of a network, and what is kept fixed and why.

    ``seconds`` holds the time of the capture and of the analysis itself, ``where`` the patterns that name a part.
    """

    axes: tuple[Axis, ...]
    blocks: tuple[Block, ...]
    sites: tuple[Site, ...]
    fixed: tuple[Fixed, ...]
    trace: Tracer = field(repr=False, compare=False)
    seconds: Mapping[str, float] = field(default_factory=dict, compare=False)
    where: tuple[str, ...] = ()

    @property
    def capture(self) -> Capture:
        """The captured graph that this analysis is of."""
        return self.trace.capture

    def axis(self, name: str) -> Axis:
        """Return the axis called ``name``; :class:`~pliant.checks.UnknownNameError` offers the nearest."""
        for axis in self.axes:
            if axis.name == name:
                return axis
        raise unknown("axis", name, [axis.name for axis in self.axes])

    def block(self, name: str) -> Block:
        """Return the block called ``name``; :class:`~pliant.checks.UnknownNameError` offers the nearest."""
        for block in self.blocks:
            if block.name == name:
                return block
        raise unknown("block", name, [block.name for block in self.blocks])

    def modules(self) -> dict[str, nn.Module]:
        """Return the submodules that run when the network does, by path, in its order: those that ``where`` names."""
        calls, model = self.capture.calls, self.capture.scope.model
        return {
            path: module
            for path, module in (model.named_modules() if model is not None else ())
            if path and path in calls and all(fnmatchcase(path, where) for where in self.where)
        }

    def only(self, where: str) -> Analysis:
        """Return this analysis with the axes, blocks, sites and submodules whose name matches the pattern ``where``.

        Raises:
            UnknownNameError: nothing matches.
        """

        def match(name: str) -> bool:
            return fnmatchcase(name, where)

        part = replace(
            self,
            axes=tuple(a for a in self.axes if match(a.name)),
            blocks=tuple(b for b in self.blocks if match(b.name)),
            sites=tuple(s for s in self.sites if match(s.name)),
            where=(*self.where, where),
        )
        if not (part.axes or part.blocks or part.sites or part.modules()):
            raise unknown("part", where, [*(a.name for a in self.axes), *(b.name for b in self.blocks)])
        return part

    def __repr__(self) -> str:  # hundreds of parts: a notebook would show every one
        counts = (
            f"{len(self.axes)} axes bend, {len(self.blocks)} blocks can be left out, {len(self.fixed)} kept as they are"
        )
        return f"Analysis({counts})"

    def __str__(self) -> str:
        """Say in a few lines what bends, what can be left out, and what is fixed and why."""
        rows = [f"{len(self.axes)} axes bend"]
        rows += [
            f"  {axis.name}: {axis.size} units ({axis.kind}), {len(axis.parameters)} tensors" for axis in self.axes
        ]
        rows.append(f"{len(self.blocks)} blocks can be left out")
        rows += [f"  {block.name}" for block in self.blocks]
        reasons: dict[str, int] = {}
        for fixed in self.fixed:
            reasons[fixed.reason.text] = reasons.get(fixed.reason.text, 0) + 1
        rows.append(f"{len(self.fixed)} kept as they are")
        rows += [f"  {text}: {count}" for text, count in reasons.items()]
        scope = self.capture.scope
        rows += [f"only {scope.only} was analysed"] if scope.only else []
        rows += [f"captured by {scope.mode}"] if scope.mode != "export" else []
        return "\n".join(rows)

    def describe(self) -> dict[str, Any]:
        """Return the analysis as plain data: ``axes``, ``blocks``, ``fixed`` and a ``summary``."""
        return {
            "axes": [
                {"name": a.name, "kind": a.kind, "size": a.size, "parameters": list(a.parameters)} for a in self.axes
            ],
            "blocks": [{"name": b.name, "run": b.run} for b in self.blocks],
            "sites": [{"name": s.name, "kind": s.kind, "weight": s.weight, "shape": list(s.shape)} for s in self.sites],
            "fixed": [
                {"what": f.what, "size": f.size, "code": f.reason.code, "why": str(f.reason)} for f in self.fixed
            ],
            "summary": {
                "axes": len(self.axes),
                "blocks": len(self.blocks),
                "sites": len(self.sites),
                "fixed": len(self.fixed),
                "unknown_operations": dict(self.trace.unknown),
                "only": self.capture.scope.only,
                "capture_mode": self.capture.scope.mode,
                **{f"{name}_seconds": seconds for name, seconds in self.seconds.items()},
            },
        }


def analyze(
    model: nn.Module,
    example_args: Sequence[Any],
    example_kwargs: Mapping[str, Any] | None = None,
    only: str | None = None,
) -> Analysis:
    """Find every direction in which ``model`` can bend.

    Args:
        model: any module that `torch.export` can capture; its weights are not needed (the meta device works).
        example_args: positional arguments that the model runs on; their first dimension is the batch.
        example_kwargs: keyword arguments.
        only: the path of a submodule such as ``"backbone"``: only that is captured and bends, with the inputs that it
            gets when the whole model runs; for a model whose other parts cannot be captured.

    Returns:
        The axes (dimensions that change together), blocks (parts that can be left out), sites (weight-bearing
        operations), and what is kept fixed with the reason of each.

    Raises:
        WrongShapeError: the model does not run on the example.
        CaptureError: the model cannot be captured; the message names the module and line.
        UnknownNameError: no submodule at ``only``.
    """
    model = unwrap(model)
    start = time.perf_counter()
    captured = capture(model, example_args, example_kwargs, only)
    middle = time.perf_counter()
    trace = Tracer(captured).run(RULES)
    axes, fixed_dims = find_axes(trace)
    blocks, fixed_blocks = find_blocks(trace, model)
    sites = find_sites(trace)
    seconds = {"capture": middle - start, "analysis": time.perf_counter() - middle}
    return Analysis(axes, blocks, sites, fixed_dims + fixed_blocks, trace, seconds)
