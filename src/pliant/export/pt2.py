"""``.pt2``: torch's own archive of an exported program. Loads with torch alone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..measure.capture import capture, quiet
from ..measure.weights import memory_of
from .artefact import Draft


def write(net: nn.Module, temporary: Path, path: Path, args: Any, kwargs: Any, *, dynamic_batch: bool) -> Draft:
    """Write ``net`` to ``temporary``, to be called ``path``.

    Raises:
        CaptureError: ``torch.export`` cannot capture it.
    """
    captured = capture(net, args, kwargs, dynamic_batch=dynamic_batch)
    _compact(captured.program)
    with quiet():
        torch.export.save(captured.program, temporary)
        module, call = _loaded(temporary, args, kwargs)
    lines = f"import torch\n\nnet = torch.export.load({path.name!r}).{call}\n"
    details = {"runtime": "torch", "fixed_because": captured.reason, "inputs": list(captured.inputs)}

    def prepare(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Callable[[], Any]:
        return lambda: module(*args, **kwargs)

    return Draft(prepare, captured.dynamic, lines, details)


def _loaded(temporary: Path, args: Any, kwargs: Any) -> tuple[nn.Module, str]:
    """Return the loaded module, and the call that makes it.

    The guards on inputs of a forward with ``*args`` or ``**kwargs`` can name what is not there any more after loading
    (seen in torch 2.15); such a program is loaded without them.
    """
    program = torch.export.load(temporary)
    module = program.module()
    try:
        with torch.no_grad():
            module(*args, **kwargs)
    except NameError:
        return program.module(check_guards=False), "module(check_guards=False)"
    except Exception:  # noqa: BLE001 - the comparison that follows says what is wrong
        pass
    return module, "module()"


def _compact(program: torch.export.ExportedProgram) -> None:
    """Give each weight that is a view its own memory: a view would be saved with all that it is a view of."""
    state: dict[str, Any] = program.state_dict
    copies: dict[tuple[Any, ...], torch.Tensor] = {}
    for name, value in state.items():
        if (
            not isinstance(value, torch.Tensor)
            or value.numel() * value.element_size() == value.untyped_storage().nbytes()
        ):
            continue
        key = memory_of(value)
        if key not in copies:
            copy = value.detach().clone(memory_format=torch.contiguous_format)
            copies[key] = nn.Parameter(copy, value.requires_grad) if isinstance(value, nn.Parameter) else copy
        state[name] = copies[key]
