"""Networks by name: a task's, or one of torchvision, timm or transformers, with example inputs that it runs on."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..checks import PliantError, WrongShapeError, first_line, unknown
from .libraries import building, library, quiet
from .load import load_task

SOURCES = ("torchvision", "timm", "hf")


@dataclass(frozen=True)
class Network:
    """A network with random weights and the arguments of one call, batch first."""

    name: str
    model: nn.Module = field(repr=False)
    args: tuple[Any, ...] = field(default=(), repr=False)
    kwargs: Mapping[str, Any] = field(default_factory=dict, repr=False)


def load_network(text: str, inputs: Path | None = None) -> Network:
    """Return the network that ``text`` names, with its example inputs.

    Args:
        text: a task (``digits``, ``file.py``), ``torchvision:resnet50``, ``timm:vit_tiny_patch16_224``,
            ``hf:BertModel`` or ``hf:BertModel:config.json``. Weights are random: nothing is downloaded.
        inputs: a JSON file with the keyword arguments of one call, see :func:`read_inputs`.

    Raises:
        UnknownNameError: no such network; the nearest name is offered.
        MissingExtraError: the library is not installed; the message holds the install line.
        PliantError: the network cannot be built or the files cannot be read.
    """
    source, colon, rest = text.partition(":")
    if not colon or source not in SOURCES:
        if (
            colon
            and not rest.startswith(("/", "\\"))
            and source.lower() in ("tv", "torch", "huggingface", "transformers")
        ):
            raise unknown("source of networks", source, SOURCES)
        task = load_task(text)
        network = Network(text, task.model(), *(() if inputs else task.example()))
    else:
        network = {"torchvision": _torchvision, "timm": _timm, "hf": _transformers}[source](rest)
    return Network(text, network.model, (), read_inputs(inputs)) if inputs else network


def read_inputs(path: Path) -> dict[str, Any]:
    """Read keyword arguments from JSON: ``{"input_ids": {"shape": [2, 16], "dtype": "int64", "high": 100}}``.

    An object with a ``shape`` becomes a random tensor (``dtype`` float32 by default, integers from 0 up to ``high``); a
    list becomes a tensor of its numbers; everything else stays as it is.
    """
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))
        return {name: _value(row) for name, row in rows.items()}
    except (OSError, ValueError, AttributeError, TypeError, KeyError, RuntimeError) as error:
        raise WrongShapeError(
            f'{path} does not describe inputs ({first_line(error)}): write JSON such as {{"pixel_values": {{"shape": '
            '[2, 3, 32, 32]}, "input_ids": {"shape": [2, 16], "dtype": "int64", "high": 100}}'
        ) from error


def _value(row: Any) -> Any:
    if isinstance(row, list):
        return torch.tensor(row)
    if not isinstance(row, Mapping):
        return row
    dtype = getattr(torch, str(row.get("dtype", "float32")))
    if dtype.is_floating_point:
        return torch.randn(row["shape"]).to(dtype)
    return torch.randint(0, int(row.get("high", 2)), row["shape"]).to(dtype)


def _torchvision(name: str) -> Network:
    with quiet():
        models = library("torchvision").models
    if name not in models.list_models():
        raise unknown("torchvision network", name, models.list_models())
    home = models.get_model_builder(name).__module__
    if ".quantization" in home:
        raise PliantError(
            f"{name} is quantised, which cannot be cut: analyse torchvision:{name.removeprefix('quantized_')} instead"
        )
    with building(f"torchvision:{name}"):
        options = {"weights_backbone": None} if ".detection" in home or ".segmentation" in home else {}
        model = models.get_model(name, weights=None, **options)
    return Network(name, model, _images(models, name, home))


def _images(models: Any, name: str, home: str) -> tuple[Any, ...]:
    if ".detection" in home:
        return ([torch.rand(3, 224, 224), torch.rand(3, 224, 224)],)
    if ".video" in home:
        return (torch.randn(2, 3, 16, 112, 112),)
    if ".optical_flow" in home:
        return (torch.randn(2, 3, 128, 128), torch.randn(2, 3, 128, 128))
    size = 224
    with contextlib.suppress(Exception):  # what its weights were trained on, where there are any
        crop = models.get_model_weights(name).DEFAULT.transforms().crop_size
        size = int(crop[0] if isinstance(crop, (list, tuple)) else crop)
    return (torch.randn(2, 3, size, size),)


def _timm(name: str) -> Network:
    with quiet():
        timm = library("timm")
    if not timm.is_model(name):
        raise unknown("timm network", name, timm.list_models())
    with building(f"timm:{name}"):
        model = timm.create_model(name, pretrained=False)
    shape = tuple(getattr(model, "default_cfg", {}).get("input_size") or (3, 224, 224))
    return Network(name, model, (torch.randn(2, *shape),))


def _transformers(text: str) -> Network:
    from .text_inputs import example_of

    name, _, file = text.partition(":")
    with quiet():
        everything = library("transformers")
        kind = getattr(everything, name, None)
    if not (isinstance(kind, type) and hasattr(kind, "config_class")) and not name.startswith("AutoModel"):
        raise unknown(
            "transformers class", name, [n for n in dir(everything) if (n[:1].isupper() and "Model" in n) or "For" in n]
        )
    with building(f"hf:{name}"):
        model = _from_config(everything, kind, file)
    return Network(text, model, (), example_of(model))


def _from_config(everything: Any, kind: Any, file: str) -> nn.Module:
    options = _config(Path(file)) if file else {}
    own = getattr(kind, "config_class", None)
    if own is not None:
        return kind(own.from_dict(options))
    if "model_type" not in options:
        raise PliantError(
            f"{kind.__name__} needs a config.json with a model_type: hf:{kind.__name__}:path/to/config.json"
        )
    return kind.from_config(everything.AutoConfig.for_model(**options))


def _config(path: Path) -> dict[str, Any]:
    path = path / "config.json" if path.is_dir() else path
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise PliantError(
            f"{path} cannot be read as a config.json ({first_line(error)}): give the file that save_pretrained wrote"
        ) from error
