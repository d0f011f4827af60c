"""``.safetensors``: weights for the user's own class, with a card beside them."""

from __future__ import annotations

import copy
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..checks import PliantError, VerificationError
from ..measure import machine
from ..measure.capture import plain, quiet
from ..measure.inference import evaluating, tensors_of
from ..measure.weights import distinct_state
from .artefact import Draft

CARD_FORMAT = 1


def card_of(path: Path) -> Path:
    """Return where the card of the weights in ``path`` goes.

    Raises:
        PliantError: there is a file that is no such card.
    """
    card = path.with_suffix(".json")
    try:
        found = json.loads(card.read_text(encoding="utf-8")) if card.is_file() else None
        ours = found is None or {"format", "class", "tensors", "tied"} <= found.keys()
    except (OSError, ValueError, AttributeError):
        ours = False
    if not ours:
        raise PliantError(
            f"the weights {path.name} come with a card {card.name}, and {card} is another file: nothing was written; "
            "choose another name"
        )
    return card


def write(net: nn.Module, temporary: Path, path: Path, args: Any, kwargs: Any, *, dynamic_batch: bool) -> Draft:
    """Write the state of ``net`` to ``temporary``, to be called ``path``; the card is left to the caller to write.

    Tied tensors are stored once; the file's metadata maps each other name to the one stored, as
    ``safetensors.torch.save_model`` does, so that ``safetensors.torch.load_model`` puts them back.
    """
    from safetensors.torch import load_file, save_file

    tensors, tied = distinct_state(net)
    stored = {name: tensor.contiguous().clone() for name, tensor in tensors.items()}
    save_file(stored, temporary, metadata=tied or None)
    with quiet():  # torch warns of its own classes, which a part that is a graph holds
        loaded = copy.deepcopy(net)
    with torch.no_grad():
        for value in loaded.state_dict().values():  # so that what the file does not restore shows in the comparison
            if value.is_floating_point():
                value.fill_(float("nan"))
    state = load_file(temporary)
    state.update({other: state[kept] for other, kept in tied.items()})
    missing, unexpected = loaded.load_state_dict(state, strict=False)
    if missing or unexpected:
        raise VerificationError(f"the file lacks {sorted(missing)} and has {sorted(unexpected)} beyond the network")
    name, home = type(net).__name__, _home(type(net))
    lines = (
        "from safetensors.torch import load_model\n\n"
        f"net = {name}(...)  # {home}, built with the shapes in the card\n"
        f"load_model(net, {path.name!r})\n"
        "net.eval()\n"
    )
    card = {
        "format": CARD_FORMAT,
        "what": f"the weights of a {name} ({home}), {sum(t.numel() for t in stored.values())} numbers",
        "class": home,
        "load": lines,
        "tensors": {key: {"shape": list(value.shape), "dtype": _name(value)} for key, value in stored.items()},
        "tied": tied,
        "inputs": [_shape(tensor) for tensor in tensors_of((args, kwargs))],
        "outputs": _outputs(net, args, kwargs),
        "made_with": {key: value for key, value in machine().items() if key in ("torch", "python")},
    }

    loaded.eval()

    def prepare(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Callable[[], Any]:
        return lambda: plain(loaded(*args, **kwargs))

    text = json.dumps(card, indent=2, ensure_ascii=False) + "\n"
    return Draft(prepare, dynamic_batch, lines, {"runtime": "torch", "tied": tied, "fixed_because": ""}, text)


def _home(kind: type) -> str:
    """Return where the class can be found: its module, or its file where that is not imported by its own name."""
    module = sys.modules.get(kind.__module__)
    file = getattr(module, "__file__", None)
    if file is None or Path(file).stem in (kind.__module__.rpartition(".")[2], "__init__"):
        return f"{kind.__module__}.{kind.__qualname__}"
    return f"{kind.__qualname__} of {Path(file).name}"


def _outputs(net: nn.Module, args: Any, kwargs: Any) -> list[dict[str, Any]]:
    with evaluating(net):
        return [_shape(tensor) for tensor in tensors_of(plain(net(*args, **kwargs)))]


def _shape(tensor: torch.Tensor) -> dict[str, Any]:
    return {"shape": list(tensor.shape), "dtype": _name(tensor)}


def _name(tensor: torch.Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")
