"""What the server process imports once for all networks."""

from __future__ import annotations

import warnings

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from tests.helpers import torchvision_shim  # noqa: F401  (must come first)

    import pliant  # isort: skip
    import timm  # isort: skip
    import torch._dynamo  # isort: skip
    import torch.export  # isort: skip
    import torchvision  # isort: skip
    import transformers  # isort: skip

    from transformers import BertModel, LlamaModel, T5Model, ViTModel  # isort: skip

    from . import entries, measure, peer, to_onnx  # isort: skip

    entries.networks()

__all__ = [
    "BertModel", "LlamaModel", "T5Model", "ViTModel", "measure", "peer", "pliant", "timm", "to_onnx", "torch",
    "torchvision", "transformers",
]  # fmt: skip
