"""Turning a user's model into a graph of ATen operations with `torch.export`, or saying plainly why it can't be."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import re
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any
from unittest import mock

import torch
from torch import nn
from torch.export import ExportedProgram

from ..checks import PliantError
from .call_log import CallLog, ModuleCall
from .failure import NO_SIZES, cannot_capture, does_not_run, failing_module
from .flatten import inline_regions
from .partial import Part, largest_parts, part_of
from .prepare import (
    arguments,
    check_modules,
    evaluating,
    has_meta,
    on_fake_cpu_if_meta,
    run_aside,
    unwrap,
    without_fast_path,
)


@dataclass(frozen=True)
class Scope:
    """What was captured, and how.

    ``only`` is the path of a submodule, or ``""`` for the whole model; ``pinned`` maps the tensors that must stay as
    they are to the reason; ``mode`` names the entry of :data:`MODES` that gave the graph; ``example`` holds the
    arguments and keyword arguments that the captured module gets; ``model`` is the whole model.
    """

    only: str = ""
    pinned: Mapping[str, str] = field(default_factory=dict)
    mode: str = "export"
    example: tuple[tuple[Any, ...], Mapping[str, Any]] = ((), {})
    model: nn.Module | None = field(default=None, repr=False, compare=False)


@dataclass(frozen=True)
class Capture:
    """A captured network: the exported program, its flattened graph and how each module was called.

    ``args`` and ``kwargs`` are the whole model's, also where ``scope`` says that only a part was captured.
    """

    program: ExportedProgram
    graph: torch.fx.Graph
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    calls: Mapping[str, ModuleCall]
    aliases: Mapping[str, str] = field(default_factory=dict)
    scope: Scope = field(default_factory=Scope)

    @cached_property
    def inputs(self) -> Mapping[str, Any]:
        """Placeholder name to the specification that tells a parameter from a buffer, a constant or an input."""
        return {spec.arg.name: spec for spec in self.program.graph_signature.input_specs}


@dataclass(frozen=True)
class _Mode:
    """One way to make a graph.

    ``suits`` is a pattern over the first mode's error: where it does not match, this mode cannot help. ``sound`` looks
    at the program and tells whether it holds for every input.
    """

    name: str
    export: Callable[..., ExportedProgram]
    suits: str = ""
    sound: Callable[[ExportedProgram], bool] = lambda program: True


def _plain(model: nn.Module, args: Any, kwargs: Any) -> ExportedProgram:
    return torch.export.export(model, args, kwargs, strict=False)


def _bytecode(model: nn.Module, args: Any, kwargs: Any) -> ExportedProgram:
    return torch.export.export(model, args, kwargs, strict=True)


def _draft(model: nn.Module, args: Any, kwargs: Any) -> ExportedProgram:
    with _log_of_drafts():
        return torch.export.draft_export(model, args, kwargs)


@contextmanager
def _log_of_drafts() -> Iterator[None]:
    """Let a draft write its log, which it wants to, where it is deleted again, and close the file, which it forgets."""
    with tempfile.TemporaryDirectory() as folder, mock.patch.dict(os.environ, TORCH_DTRACE=folder):
        try:
            with warnings.catch_warnings():
                # Where nothing else holds its log, the file is closed, with a complaint, when the draft returns.
                warnings.simplefilter("ignore", ResourceWarning)
                yield
        finally:
            for reference in list(getattr(logging, "_handlerList", ())):
                handler = reference()
                if getattr(handler, "root_dir", None) == folder:
                    handler.close()


def _no_choice_of_data(program: ExportedProgram) -> bool:
    """A draft follows the path that the example takes: it holds for other inputs only if nothing depends on data.

    Where its report names nothing at all, it has lost what made the first mode fail, and is not believed either.
    """
    kinds = {failure.failure_type.name for failure in getattr(getattr(program, "_report", None), "failures", ())}
    return bool(kinds) and kinds <= {"MISSING_FAKE_KERNEL", "MISMATCHED_FAKE_KERNEL"}


MODES = (
    _Mode("export", _plain),
    _Mode("export of the bytecode (strict)", _bytecode),
    _Mode("draft export", _draft, NO_SIZES, _no_choice_of_data),
)


def capture(
    model: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any] | None = None, only: str | None = None
) -> Capture:
    """Capture ``model`` in evaluation mode on example ``args``; the model's own mode is restored.

    The modes of :data:`MODES` are tried in turn until one gives a graph that holds for every input.

    Args:
        model: any module that `torch.export` can trace; parameters may be on the meta device.
        args: example positional arguments, a tuple; a batch of at least 2 keeps the batch dimension apart from sizes
            of 1.
        kwargs: example keyword arguments.
        only: the path of a submodule, where only that can be captured; the rest of the model runs as it is.

    Raises:
        WrongShapeError: the model itself does not run on the example.
        CaptureError: it runs, but cannot be turned into a graph; the message names the module and the user's line.
        UnknownNameError: no submodule at ``only``.
    """
    model = unwrap(model)
    args, kwargs = arguments(args, kwargs)
    check_modules(model)
    with evaluating(model), on_fake_cpu_if_meta(model, args, kwargs) as (args_in, kwargs_in):
        part = Part(model, args_in, kwargs_in, {})
        if only is not None:
            part = _part(model, only, args_in, kwargs_in)
        program, graph, log, mode = _first_that_works(model, part, args_in, kwargs_in)
    aliases = _aliases(model, only or "")
    pinned = {aliases.get(name, name): why for name, why in part.pinned.items()}
    scope = Scope(only or "", pinned, mode, (part.args, part.kwargs) if only else (args, kwargs), model)
    return Capture(program, graph, args, kwargs, log.records, aliases, scope)


def _part(model: nn.Module, only: str, args: Any, kwargs: Any) -> Part:
    try:
        return part_of(model, only, args, kwargs)
    except PliantError:
        raise
    except Exception as error:
        raise does_not_run(model, args, kwargs, error) from error


def _first_that_works(
    model: nn.Module, part: Part, args: Any, kwargs: Any
) -> tuple[ExportedProgram, torch.fx.Graph, CallLog, str]:
    log = CallLog(part.model)
    first: Exception | None = None
    for mode in MODES:
        if first is not None and (
            has_meta(part.model) or not re.search(mode.suits, f"{type(first).__name__}: {first}")
        ):
            continue
        try:
            if first is not None:
                with log.listening(), without_fast_path():  # other modes cannot look through the hooks
                    run_aside(part.model, part.args, part.kwargs)
            with (
                _quiet(),
                torch.enable_grad(),
                without_fast_path(),
                log.listening() if first is None else nullcontext(),
            ):
                program = mode.export(part.model, part.args, part.kwargs)
            if mode.sound(program):
                return program, inline_regions(program), log, mode.name
        except Exception as error:  # noqa: BLE001  (whatever torch raises: the next mode is tried)
            if first is None:
                first = error
                _must_run(model, args, kwargs)
    assert first is not None
    raise cannot_capture(part.model, first, _hint(model, first, args, kwargs) if part.model is model else "") from first


def _must_run(model: nn.Module, args: Any, kwargs: Any) -> None:
    try:
        run_aside(model, args, kwargs)
    except Exception as error:
        raise does_not_run(model, args, kwargs, error) from error


def _hint(model: nn.Module, error: BaseException, args: Any, kwargs: Any) -> str:
    """Find the largest submodule beside the failing one that can be captured."""
    for path, share in largest_parts(model, failing_module(model, error) or "")[:3]:
        with contextlib.suppress(Exception), _quiet(), torch.enable_grad(), without_fast_path():
            part = part_of(model, path, args, kwargs)
            _plain(part.model, part.args, part.kwargs)
            return f"only={path!r} works, which holds {share:.0%} of the parameters"
    return ""


_NOISY = ("torch.fx", "torch.export", "torch._export", "torch._dynamo", "torch._subclasses")


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the tracer's own warnings and logs to itself: what matters of them is told in our words."""
    # A draft writes what it did to a log of its own, and leaves that switched on.
    levels = [(logger, logger.level) for logger in map(logging.getLogger, (*_NOISY, "torch.__trace"))]
    try:
        for logger, _ in levels[:-1]:
            logger.setLevel(logging.CRITICAL + 1)
        sink = io.StringIO()  # a failed trace prints its graph
        with warnings.catch_warnings(), contextlib.redirect_stdout(sink), contextlib.redirect_stderr(sink):
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in levels:
            logger.setLevel(level)


def _aliases(model: nn.Module, only: str = "") -> dict[str, str]:
    """Map every name of a tied tensor to its first name, those inside ``only`` before others."""
    first: dict[int, str] = {}
    names: dict[str, str] = {}
    both = [*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False)]
    for name, tensor in sorted(both, key=lambda item: not f"{item[0]}.".startswith(f"{only}.")) if only else both:
        names[name] = first.setdefault(id(tensor), name)
    return names
