"""One call for every format: write, compare, time, and only then let the file have its name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from torch import nn

from ..checks import VerificationError, WrongShapeError, first_line, unknown
from ..files import replacing
from ..measure import Measurement
from ..measure.inference import batch_size, evaluating, placed
from ..measure.latency import summary
from ..measure.timing import interleave, torch_threads
from . import onnx, pt2, safetensors
from .artefact import Artefact, Draft
from .verify import Verdict, verify

_WRITERS: dict[str, Callable[..., Draft]] = {
    ".onnx": onnx.write,
    ".pt2": pt2.write,
    ".safetensors": safetensors.write,
}


def export(
    net: nn.Module,
    path: str | Path,
    example_args: tuple[Any, ...],
    example_kwargs: Mapping[str, Any] | None = None,
    *,
    dynamic_batch: bool = True,
    check: bool = True,
    time: bool = True,
) -> Artefact:
    """Write ``net``, in evaluation mode, to ``path``; its suffix says in which format.

    - ``.pt2`` runs with torch alone, ``.onnx`` with ONNX Runtime. Outputs in a user's own containers become
      dictionaries (``.pt2``) or a flat list (``.onnx``) of tensors.
    - ``.safetensors`` holds the weights for the network's own class; a ``.json`` card beside it says what it is.

    Args:
        net: the network, such as a family's ``extract`` returns. It is left as it was.
        path: where to; an older file there is replaced only by a checked one.
        example_args: positional arguments of the forward pass; the first dimension of the first tensor is the batch.
        example_kwargs: keyword arguments.
        dynamic_batch: make the batch size free where the graph allows it; ``Artefact.dynamic_batch`` says if it does.
        check: compare with ``net`` on the example, and on other batch sizes where they are free.
        time: time it on the example in its runtime, with one thread.

    Raises:
        UnknownNameError: no such suffix.
        MissingExtraError: the format needs a package that is not installed.
        CaptureError: the network cannot be turned into a graph.
        VerificationError: the file gives other numbers; it is not kept.
        WrongShapeError: ``net`` is no network, or does not run on the example arguments.
        PliantError: the file cannot be written, or its card would replace a file of another kind.
    """
    target = Path(path).expanduser()
    if target.suffix not in _WRITERS:
        raise unknown("export format", target.suffix or target.name, _WRITERS)
    if not isinstance(net, nn.Module):
        raise WrongShapeError(
            f"export takes a network (torch.nn.Module), got {type(net).__name__}: "
            "of a family, give family.extract(config)"
        )
    args, kwargs = placed(net, example_args, example_kwargs)
    _runs(net, args, kwargs)
    with ExitStack() as files:
        temporary = files.enter_context(replacing(target))
        write = partial(_WRITERS[target.suffix], net, temporary, target, args, kwargs)
        draft, verdict = _checked(net, write, args, kwargs, target.name, dynamic_batch, check)
        latency = _timed(net, draft, args, kwargs) if time else None
        size = temporary.stat().st_size
        if draft.card:
            card = files.enter_context(replacing(safetensors.card_of(target)))
            card.write_text(draft.card, encoding="utf-8")
    details = {
        **draft.details,
        "dynamic_batch": draft.dynamic,
        "checked_batches": list(verdict.batches) if verdict else [],
    }
    error = verdict.max_error if verdict else None
    return Artefact(target, target.suffix[1:], size, error, latency, draft.load_lines, details)


def _runs(net: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    if batch_size(args, kwargs) == 0:
        raise WrongShapeError("the example arguments have a batch of 0: give an example of at least one")
    try:
        with evaluating(net):
            net(*args, **kwargs)
    except Exception as error:  # whatever the user's network raises
        raise WrongShapeError(
            f"{type(net).__name__} does not run on the example arguments: {type(error).__name__}: {first_line(error)}"
        ) from error


def _checked(
    net: nn.Module,
    write: Callable[..., Draft],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    what: str,
    dynamic_batch: bool,
    check: bool,
) -> tuple[Draft, Verdict | None]:
    """Write and compare; where a free batch is what goes wrong, do both again with the example's."""
    draft = write(dynamic_batch=dynamic_batch)
    if not check:
        return draft, None
    try:
        return draft, verify(net, draft, args, kwargs, what)
    except VerificationError as error:
        if not draft.dynamic:
            raise
        draft = write(dynamic_batch=False)
        draft = replace(draft, details={**draft.details, "fixed_because": str(error)})
        return draft, verify(net, draft, args, kwargs, what)


def _timed(net: nn.Module, draft: Draft, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Measurement:
    facts = {"runtime": draft.details["runtime"], "threads": 1, "batch": batch_size(args, kwargs)}
    with torch_threads(1), evaluating(net):
        return summary(interleave([draft.prepare(args, kwargs)], 20), facts)
