"""Pick timm's networks for the zoo: of every model module the one with the fewest parameters, at the smallest size.

``python -m benchmarks.zoo.pick`` writes timm.json. It takes some minutes; the table is kept with the code, so that the
zoo is the same everywhere.
"""

from __future__ import annotations

import contextlib
from typing import Any

import torch
from torch import nn

from pliant.files import write_json

from .of_timm import TABLE

SIZES = (64, 96, 112, 128, 160, 192, 224, 256)
_TESTS = "test_"  # timm's own miniatures, taken only where a module has nothing else
_HUGE = ("giant", "huge", "gigantic", "xxlarge", "7b", "_1b")
_NO_HEAD = 10  # classes for those that come as feature extractors


def pick() -> dict[str, dict[str, Any]]:
    """Return the table: network name to its arguments."""
    import timm

    rows = {}
    for module in timm.list_modules():
        names = [name for name in timm.list_models(module=module) if not any(word in name for word in _HUGE)]
        names = [name for name in names if not name.startswith(_TESTS)] or names
        counted = sorted((count, name) for name in names if (count := _parameters(name)) is not None)
        for _, name in counted[:1]:
            options = _smallest(name)
            if options is not None:
                rows[name] = {"make": {"name": name, **options}}
    return rows


def _parameters(name: str) -> int | None:
    with contextlib.suppress(Exception):
        return sum(p.numel() for p in _make(name, {}, "meta").parameters())
    return None


def _make(name: str, options: dict[str, Any], device: str) -> nn.Module:
    import timm

    with torch.device(device):
        return timm.create_model(name, **options).eval()


def _smallest(name: str) -> dict[str, Any] | None:
    import timm

    config = timm.get_pretrained_cfg(name)
    sizes = sorted({*SIZES, config.input_size[-1] if config else SIZES[-1]})
    extra = {} if config is None or config.num_classes else {"num_classes": _NO_HEAD}
    for size in sizes:
        for options in ({"img_size": size}, {}) if config and config.fixed_input_size else ({},):
            with contextlib.suppress(Exception), torch.no_grad():
                _make(name, {**options, **extra}, "cpu").to("meta")(torch.empty(2, 3, size, size, device="meta"))
                return {"size": size, "options": {**options, **extra}}
    return None


if __name__ == "__main__":
    from tests.helpers import torchvision_shim  # noqa: F401  (timm imports torchvision)

    write_json(TABLE, pick())
