"""Saving a family and loading it in another process: safetensors for tensors, JSON for the rest, never pickle.

``family.json`` is written last and names the weight file by its content, so a save that is killed leaves the family
that was there before.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from ..checks import CorruptFileError, WrongShapeError, first_line
from ..files import digest, write_json, write_tensors
from ..graph.prepare import unwrap
from ..space.space import Space
from .extras import is_extra
from .place import Placed
from .record import replay, technique_record

if TYPE_CHECKING:
    from ..technique import Elastic
    from .family import Family

_JSON = "family.json"
_FORMAT = 1


def _weights(model: nn.Module) -> dict[str, Tensor]:
    return {name: value for name, value in model.state_dict().items() if isinstance(value, Tensor)}


def _precision(tensors: Iterable[Tensor]) -> torch.dtype | None:
    return next((tensor.dtype for tensor in tensors if tensor.is_floating_point()), None)


def _in_precision(example: Any, stored: torch.dtype | None, wanted: torch.dtype | None) -> Any:
    """Return an example for weights that were stored in one precision and are loaded in another."""
    return pytree.tree_map_only(Tensor, lambda value: value.to(wanted) if value.dtype == stored else value, example)


def save_family(family: Family, folder: Path, record: dict[str, Any]) -> Path:
    """Write ``family`` to ``folder``; see :meth:`Family.save`."""
    weights = _weights(family.model) | family.extra.state()
    leaves, spec = pytree.tree_flatten(family.example())  # in the precision that the weights have now
    example = {str(i): leaf for i, leaf in enumerate(leaves) if isinstance(leaf, Tensor)}
    plain = {str(i): leaf for i, leaf in enumerate(leaves) if not isinstance(leaf, Tensor)}
    name, example_name = f"weights-{digest(weights)}.safetensors", f"example-{digest(example)}.safetensors"
    write_tensors(folder / name, weights)
    write_tensors(folder / example_name, example)
    write_json(
        folder / _JSON,
        {
            "format": _FORMAT,
            "weights": name,
            "example": {"tensors": example_name, "plain": plain, "structure": pytree.treespec_dumps(spec)},
            "techniques": [technique_record(placed) for placed in family.techniques],
            "space": json.loads(family.space.to_json()),
            "only": family.analysis.capture.scope.only,
            "prepared": family.prepared,
            "record": record,
        },
    )
    for old in (*folder.glob("weights-*.safetensors"), *folder.glob("example-*.safetensors")):
        if old.name not in (name, example_name):
            old.unlink(missing_ok=True)
    return folder


def load_family(kind: type[Family], folder: Path, model: nn.Module, choices: Sequence[Elastic | Placed] = ()) -> Family:
    """Read a family from ``folder`` into ``model``; see :meth:`Family.load`."""
    path = folder / _JSON
    if not path.is_file():
        raise CorruptFileError(f"there is no family in {folder}: {_JSON} is missing; give the folder that save() wrote")
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
        if stored["format"] != _FORMAT:
            raise ValueError(f"format {stored['format']}, this version of Pliant reads {_FORMAT}")
        weights = load_file(folder / stored["weights"])
        tensors = load_file(folder / stored["example"]["tensors"])
        structure = pytree.treespec_loads(stored["example"]["structure"])
        plain = stored["example"]["plain"]
        leaves = [tensors.get(str(i), plain.get(str(i))) for i in range(structure.num_leaves)]
        args, kwargs = pytree.tree_unflatten(leaves, structure)
        only = str(stored.get("only", "")) or None
        rows, space = stored["techniques"], Space.from_json(json.dumps(stored["space"]))
    except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
        raise CorruptFileError(
            f"the family in {folder} cannot be read ({first_line(error)}); a file is missing, half-written or of "
            "another version: restore the folder from a copy or save the family again"
        ) from error
    if digest(weights) not in stored["weights"]:
        raise CorruptFileError(f"{folder / stored['weights']} was changed after it was saved; restore it from a copy")
    model = unwrap(model)
    args, kwargs = _in_precision((args, kwargs), _precision(weights.values()), _precision(model.parameters()))
    try:
        model.load_state_dict({name: value for name, value in weights.items() if not is_extra(name)})
    except RuntimeError as error:
        raise WrongShapeError(f"the weights in {folder} do not fit this model: {error}") from error
    given = [choice if isinstance(choice, Placed) else Placed(choice) for choice in choices]
    family = kind(model, args, replay(rows, given), kwargs, [str(c) for c in space.constraints], only=only)
    if family.space.digest != space.digest:
        raise CorruptFileError(
            f"the family in {folder} had {len(space.choices)} choices, this model has {len(family.space.choices)} or "
            "other ones; give the same network, and the version of Pliant that wrote the folder"
        )
    try:
        family.extra.load({name: value for name, value in weights.items() if is_extra(name)})
    except RuntimeError as error:
        raise CorruptFileError(f"the family in {folder} does not fit this version of Pliant: {error}") from error
    family.prepared = bool(stored["prepared"])
    return family
