"""torchvision: every classification, segmentation and video network, and what else can be captured."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .entries import Inputs, Net, vision

# Networks whose input is not an image of 64 x 64, by the longest prefix of their name: shape, options.
_SPECIAL: dict[str, tuple[tuple[int, ...], dict[str, Any]]] = {
    "inception_v3": ((3, 96, 96), {}),
    "maxvit_t": ((3, 224, 224), {}),
    "vit_": ((3, 64, 64), {"image_size": 64}),
    "vit_h_14": ((3, 56, 56), {"image_size": 56}),
    "mvit_": ((3, 16, 224, 224), {"patch_embed_stride": (8, 16, 16)}),  # its sizes are its own; fewer, larger patches
    "s3d": ((3, 13, 209, 209), {}),  # the smallest that it takes
    "swin3d_": ((3, 4, 64, 64), {}),
    "r3d_": ((3, 4, 32, 32), {}),
    "mc3_": ((3, 4, 32, 32), {}),
    "r2plus1d_": ((3, 4, 32, 32), {}),
    "deeplabv3_": ((3, 64, 64), {"weights_backbone": None}),
    "fcn_": ((3, 64, 64), {"weights_backbone": None}),
    "lraspp_": ((3, 64, 64), {"weights_backbone": None}),
    "googlenet": ((3, 64, 64), {"init_weights": False, "aux_logits": False}),
}
_ATTENTION = ("vit_", "swin", "mvit_", "maxvit")
_OTHER_SHAPE = {"inception_v3": {"init_weights": False, "aux_logits": False}}
_DETECTION = ("rcnn", "fcos", "retinanet", "ssd")


def networks() -> list[Net]:
    """List the networks of the installed torchvision."""
    from tests.helpers import torchvision_shim  # noqa: F401  (must come first)

    import torchvision  # isort: skip

    names = [name for name in torchvision.models.list_models() if not name.startswith("quantized_")]
    return [Net(f"torchvision/{name}", _maker(name), name.startswith(_ATTENTION)) for name in names]


def _maker(name: str) -> Callable[[], Inputs]:
    def make() -> Inputs:
        import torchvision

        if any(word in name for word in _DETECTION):
            return _detection(name)
        if name.startswith("raft_"):
            frames = (*vision(3, 128, 128), *vision(3, 128, 128))
            return torchvision.models.get_model(name), frames, {"num_flow_updates": 2}
        prefix = max((p for p in _SPECIAL if name.startswith(p)), key=len, default="")
        shape, options = _SPECIAL.get(prefix, ((3, 64, 64), {}))
        options = {**options, **_OTHER_SHAPE.get(name, {})}
        return torchvision.models.get_model(name, **options), vision(*shape), {}

    return make


def _detection(name: str) -> Inputs:
    import torch
    import torchvision

    model = torchvision.models.get_model(name, weights_backbone=None)
    return model, ([torch.rand(3, 128, 128), torch.rand(3, 128, 128)],), {}
