"""Make `import torchvision` work where its compiled operators were built for another torch.

torchvision registers shape rules for `torchvision::nms` at import and fails if the operator does not exist, though no
classification network needs it. Import this module before torchvision; importing it twice does nothing more.
"""

from __future__ import annotations

import importlib.util
import warnings
from pathlib import Path

import torch

_SCHEMAS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)


def _compiled_operators_load() -> bool:
    """Return whether torchvision's own library can be loaded; where it can, it defines the operators itself."""
    spec = importlib.util.find_spec("torchvision")
    if spec is None or spec.origin is None:
        return False
    for file in sorted(Path(spec.origin).parent.glob("_C*.so")):
        try:
            torch.ops.load_library(str(file))
        except (OSError, RuntimeError):
            return False
        return True
    return False


def _define_missing_operators() -> torch.library.Library | None:
    """Define the operators that torchvision expects, unless they exist; they live as long as what it returns."""
    if _compiled_operators_load() or hasattr(torch.ops.torchvision, "nms"):
        return None
    library = torch.library.Library("torchvision", "DEF")
    for schema in _SCHEMAS:
        library.define(schema)
    return library


LIBRARY = _define_missing_operators()
with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # its image codecs are missing for the same reason, and not needed either
    import torchvision  # noqa: F401
