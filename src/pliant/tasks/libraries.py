"""The libraries of networks that the command line knows, imported in the way that works here."""

from __future__ import annotations

import contextlib
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from types import ModuleType
from typing import Any

import torch

from ..checks import MissingExtraError, PliantError, first_line, require


@contextmanager
def building(what: str) -> Iterator[None]:
    """Tell what a library raises while it builds ``what`` in one message."""
    try:
        with quiet():
            yield
    except (PliantError, KeyboardInterrupt):
        raise
    except Exception as error:
        raise PliantError(f"{what} cannot be built: {type(error).__name__}: {first_line(error)}") from error


@contextmanager
def quiet() -> Iterator[None]:
    """Leave out the warnings of libraries: the user did not write what they are about."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def library(name: str) -> ModuleType:
    """Import a library of networks; all of them import torchvision where it is installed.

    Raises:
        MissingExtraError: it is not installed; the message holds the install line.
    """
    if find_spec("torchvision") is not None:
        _make_torchvision_importable()
    elif name == "torchvision":
        raise MissingExtraError("this needs 'torchvision', which is not installed: pip install torchvision")
    if name == "timm" and find_spec("timm") is None:
        raise MissingExtraError("this needs 'timm', which is not installed: pip install timm")
    return require(name, "hf")


_OPERATORS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)
_KEPT: list[Any] = []  # the definitions last as long as this process


def _make_torchvision_importable() -> None:
    """Import torchvision; where its compiled part does not fit this torch, declare the operators that it misses.

    Without them not even its Python code can be imported, though no network but the detectors needs them.
    """
    try:
        import torchvision
    except RuntimeError as error:
        if "torchvision::" not in str(error):
            raise PliantError(f"torchvision cannot be imported: {first_line(error)}") from error
        for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
            del sys.modules[name]
        fragment = torch.library.Library("torchvision", "FRAGMENT")
        for schema in _OPERATORS:
            with contextlib.suppress(RuntimeError):  # this one is there
                fragment.define(schema)
        _KEPT.append(fragment)
        import torchvision  # noqa: F401
