"""timm: the smallest network of every model module, and more architectures of modules that hold several."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .entries import Inputs, Net, vision

# Made by `python -m benchmarks.zoo.pick`: name, image size, options.
TABLE = Path(__file__).with_name("timm.json")


def networks() -> list[Net]:
    """List the picked networks."""
    rows = json.loads(TABLE.read_text(encoding="utf-8"))
    return [Net(f"timm/{name}", _maker(**row["make"])) for name, row in rows.items()]


def _maker(name: str, size: int, options: dict[str, Any]) -> Callable[[], Inputs]:
    def make() -> Inputs:
        from tests.helpers import torchvision_shim  # noqa: F401  (must come first)

        import timm  # isort: skip

        return timm.create_model(name, **options), vision(3, size, size), {}

    return make
