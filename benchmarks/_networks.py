"""The networks that are measured, with random weights."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from pliant.tasks.digits_vit import DigitsViT
from tests.helpers import torchvision_shim  # noqa: F401  (before torchvision and timm)


def resnet50() -> tuple[nn.Module, tuple[Tensor]]:
    """Return torchvision's ResNet-50 and two images of 224x224."""
    import torchvision

    return torchvision.models.resnet50().eval(), (torch.randn(2, 3, 224, 224),)


def vit_b() -> tuple[nn.Module, tuple[Tensor]]:
    """Return timm's ViT-B/16 of twelve layers and two images of 224x224."""
    import timm

    return timm.create_model("vit_base_patch16_224").eval(), (torch.randn(2, 3, 224, 224),)


def vit_s(batch: int = 2) -> tuple[nn.Module, tuple[Tensor]]:
    """Return timm's ViT-S/16 of twelve layers for 64x64 images (17 tokens) and a batch of them."""
    import timm

    net = timm.create_model("vit_small_patch16_224", img_size=64, num_classes=100)
    return net, (torch.randn(batch, 3, 64, 64),)


def digits_vit(batch: int = 2) -> tuple[nn.Module, tuple[Tensor]]:
    """Return the vision transformer of the digits task and a batch of images."""
    return DigitsViT(), (torch.randn(batch, 1, 8, 8),)
