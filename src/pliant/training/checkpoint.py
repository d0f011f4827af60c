"""Checkpoints of a training run: weights, optimizer, schedule and random state in one safetensors file.

No pickle: tensors go into the file's body, everything else into its JSON header. A checkpoint appears under its final
name only when it is whole, and the one before it is kept until then, so a kill at any moment loses at most the steps
since the last one.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from ..checks import CorruptFileError, PliantError, first_line
from ..files import digest, replacing, write_tensors

_NAME = "checkpoint-{:08d}.safetensors"
_OLDER = "remove this file to go on from the one before it"
_OURS = re.compile(r"checkpoint-(\d{8,})\.safetensors")


def save_checkpoint(
    folder: Path,
    step: int,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    extra: dict[str, Any],
    held: Mapping[str, Any] | None = None,
) -> Path:
    """Write the state after ``step`` steps and remove all but the two newest checkpoints.

    Args:
        folder: where they are.
        step: how many steps are done.
        model: whose weights are kept.
        optimizer: whose state is kept.
        extra: JSON values for the header.
        held: JSON values, tensors and dicts of these, with strings as names.

    Raises:
        PliantError: ``held`` has something else in it.
    """
    tensors: dict[str, Tensor] = {f"model/{name}": t for name, t in model.state_dict().items() if isinstance(t, Tensor)}
    state = optimizer.state_dict()
    plain: dict[str, dict[str, Any]] = {}
    for index, values in state["state"].items():
        for key, value in values.items():
            if isinstance(value, Tensor):
                tensors[f"optimizer/{index}/{key}"] = value
            else:
                plain.setdefault(str(index), {})[key] = value
    tensors |= {f"random/{name}": state for name, state in random_states().items()}
    shape = _split(held or {}, "held", tensors)
    header = {
        "step": step,
        "optimizer": {"plain": plain, "param_groups": [_plain(group) for group in state["param_groups"]]},
        "held": shape,
        "digest": digest(tensors),
        **extra,
    }
    path = folder / _NAME.format(step)
    write_tensors(path, tensors, {"pliant": json.dumps(header)})
    for old in _checkpoints(folder)[:-2]:
        old.unlink(missing_ok=True)
    for left in folder.glob(".checkpoint-*.tmp*"):  # of a process that was killed while writing
        left.unlink(missing_ok=True)
    return path


def random_states() -> dict[str, Tensor]:
    """Return the state of torch's generators by device."""
    found = {"torch": torch.get_rng_state()}
    return found | {"cuda": torch.cuda.get_rng_state()} if torch.cuda.is_initialized() else found


def set_random_states(states: Mapping[str, Tensor]) -> None:
    """Put back what :func:`random_states` gave."""
    torch.set_rng_state(states["torch"])
    if "cuda" in states and torch.cuda.is_available():
        torch.cuda.set_rng_state(states["cuda"])


def latest_checkpoint(folder: Path) -> Path | None:
    """Return the newest checkpoint of a folder, or None."""
    found = _checkpoints(folder) if folder.is_dir() else []
    return found[-1] if found else None


def _checkpoints(folder: Path) -> list[Path]:
    """Return a folder's checkpoints, the oldest first; files that only begin like them are somebody else's."""
    found = {int(match[1]): path for path in folder.iterdir() if (match := _OURS.fullmatch(path.name))}
    return [found[step] for step in sorted(found)]


def writable(folder: Path) -> Path:
    """Make a folder, see that a file can be written in it, and return it.

    Raises:
        PliantError: it is a file, or cannot be written.
    """
    if folder.is_file():
        raise PliantError(f"{folder} is a file; give a folder for checkpoints")
    with replacing(folder / ".checkpoint-0.tmp") as trial:
        trial.touch()
    (folder / ".checkpoint-0.tmp").unlink()
    return folder


def load_checkpoint(
    path: Path,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    expected: Mapping[str, Any] | None = None,
    steps: int | None = None,
) -> dict[str, Any]:
    """Put a checkpoint's state back and return its header (``step`` and what was given as ``extra``).

    The optimizer keeps its own learning rate where a schedule sets it step by step, and its weight decay: they may be
    others than before.

    Raises:
        CorruptFileError: the file is not whole or not of this model.
        PliantError: its header says otherwise than ``expected``, or it stands after more than ``steps``; then nothing
            was put back.
    """
    try:
        with safe_open(path, "pt") as file:
            header = json.loads(file.metadata()["pliant"])
            compare(path.parent, header, expected or {})
            header["step"] = int(header["step"])
            if steps is not None and header["step"] > steps:
                raise PliantError(
                    f"{path.parent} holds a run that is {header['step']} steps far, and {steps} are asked for; ask for "
                    "as many or more, or use another folder"
                )
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (not a dict)
        if header.get("digest", found := digest(tensors)) != found:
            raise ValueError("its tensors are not those that were written")
        weights = {name.removeprefix("model/"): t for name, t in tensors.items() if name.startswith("model/")}
        state: dict[int, dict[str, Any]] = {int(i): dict(v) for i, v in header["optimizer"]["plain"].items()}
        for name, tensor in tensors.items():
            if name.startswith("optimizer/"):
                _, index, key = name.split("/", 2)
                state.setdefault(int(index), {})[key] = tensor
        groups = _with_rates(header["optimizer"]["param_groups"], optimizer.param_groups)
        _compare_weights(path, weights, model)
        model.load_state_dict(weights)
        optimizer.load_state_dict({"state": state, "param_groups": groups})
        header["held"] = _joined(header.get("held", {}), tensors)
        set_random_states({name[7:]: t for name, t in tensors.items() if name.startswith("random/")})
    except CorruptFileError:
        raise
    except (SafetensorError, KeyError, TypeError, ValueError, RuntimeError, OSError) as error:
        raise CorruptFileError(
            f"the checkpoint {path} cannot be read ({first_line(error)}); {_OLDER}, or the folder to start anew"
        ) from error
    return dict(header)


def _plain(group: Mapping[str, Any]) -> dict[str, Any]:
    """Return an optimizer's group of parameters with numbers in place of tensors."""
    return {name: value.tolist() if isinstance(value, Tensor) else value for name, value in group.items()}


def _with_rates(stored: list[dict[str, Any]], own: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return stored groups of parameters with the rates that the caller's own begin at."""
    if len(stored) != len(own):
        raise ValueError(f"it holds {len(stored)} groups of parameters of an optimizer, and this one has {len(own)}")
    merged = []
    for old, new in zip(stored, own, strict=True):
        rates = {"weight_decay": new["weight_decay"]} if "weight_decay" in new else {}
        if "initial_lr" in old:
            rates["initial_lr"] = new.get("initial_lr", new["lr"])
        merged.append({**old, **rates})
    return merged


def _compare_weights(path: Path, stored: Mapping[str, Tensor], model: nn.Module) -> None:
    own = {name: tuple(t.shape) for name, t in model.state_dict().items() if isinstance(t, Tensor)}
    given = {name: tuple(t.shape) for name, t in stored.items()}
    for name in dict.fromkeys([*own, *given]):
        if own.get(name) != given.get(name):
            raise CorruptFileError(
                f"the checkpoint {path} is not of this network: {name} is {_shape(given.get(name))} in it and "
                f"{_shape(own.get(name))} in the network; use another folder for another network, or, "
                f"if it is the same, {_OLDER}"
            )


def _shape(shape: tuple[int, ...] | None) -> str:
    return "missing" if shape is None else f"of shape {shape}"


def save_held(path: Path, held: Mapping[str, Any]) -> Path:
    """Write JSON values, tensors and dicts of these to a file of their own."""
    tensors: dict[str, Tensor] = {}
    shape = _split(held, "held", tensors)
    return write_tensors(path, tensors, {"pliant": json.dumps(shape), "digest": digest(tensors)})


def load_held(path: Path) -> dict[str, Any]:
    """Return what :func:`save_held` wrote.

    Raises:
        CorruptFileError: the file is not there or not whole.
    """
    try:
        with safe_open(path, "pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (not a dict)
            header = file.metadata() or {}
            if header.get("digest", found := digest(tensors)) != found:
                raise ValueError("its tensors are not those that were written")
            return _joined(json.loads(header["pliant"]), tensors)
    except (SafetensorError, KeyError, TypeError, ValueError, OSError) as error:
        raise CorruptFileError(f"{path} cannot be read ({first_line(error)}); go on from another checkpoint") from error


def _split(values: Mapping[str, Any], path: str, tensors: dict[str, Tensor]) -> dict[str, Any]:
    """Put the tensors of nested dicts into ``tensors``; return the dicts with these tensors' names in their stead."""
    shape: dict[str, Any] = {}
    for name, value in values.items():
        place = f"{path}/{name}"
        if isinstance(value, Tensor):
            tensors[place] = value.detach().contiguous()
            shape[name] = {"tensor": place}
        elif isinstance(value, Mapping):
            shape[name] = {"dict": _split(value, place, tensors)}
        else:
            try:
                json.dumps(value)
            except TypeError as error:
                raise PliantError(
                    f"a checkpoint holds JSON values, tensors and dicts of these; {place} is {value!r:.60}"
                ) from error
            shape[name] = {"value": value}
    return shape


def _joined(shape: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """Undo :func:`_split`."""
    found: dict[str, Any] = {}
    for name, row in shape.items():
        ((kind, value),) = row.items()
        found[name] = tensors[value] if kind == "tensor" else _joined(value, tensors) if kind == "dict" else value
    return found


def compare(folder: Path | str, header: Mapping[str, Any], expected: Mapping[str, Any]) -> None:
    """Raise :class:`~pliant.checks.PliantError` where a checkpoint of ``folder`` is of another kind of run."""
    for name, value in expected.items():
        if name in header and header[name] != value:
            told = f"{name} {header[name]}, this run has {name} {value}" if name != "space" else "other choices"
            same = "choices" if name == "space" else name
            raise PliantError(
                f"{folder} holds the checkpoints of a run with {told}; use the same {same} or another folder"
            )
