"""A small residual convolutional network for 8x8 images. Plain PyTorch: nothing here knows Pliant."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional as F


class Residual(nn.Module):
    """Two 3x3 convolutions with BatchNorm beside a shortcut, a 1x1 convolution where the shape changes.

    Shapes: ``(B, inputs, H, W) -> (B, outputs, H / stride, W / stride)``; ``hidden`` channels between the two.
    """

    def __init__(self, inputs: int, hidden: int, outputs: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, hidden, 3, stride, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(hidden)
        self.conv2 = nn.Conv2d(hidden, outputs, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(outputs)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        """Add the two convolutions to the shortcut."""
        y = F.relu(self.norm1(self.conv1(x)))
        return F.relu(self.shortcut(x) + self.norm2(self.conv2(y)))


class DigitsConvNet(nn.Module):
    """A stem, stages of residual blocks that halve the image, and a linear head: ``(B, 1, 8, 8) -> (B, 10)``.

    ``widths`` and ``hidden`` hold one number of channels per stage (on the residual path, and inside a block),
    ``depths`` the number of blocks of each stage.
    """

    def __init__(
        self,
        widths: Sequence[int] = (32, 64, 96),
        hidden: Sequence[int] = (32, 64, 96),
        depths: Sequence[int] = (2, 3, 2),
    ) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(1, widths[0], 3, padding=1, bias=False), nn.BatchNorm2d(widths[0]), nn.ReLU()
        )
        stages: list[nn.Module] = []
        inputs = widths[0]
        for stage, (outputs, inner, depth) in enumerate(zip(widths, hidden, depths, strict=True)):
            first = Residual(inputs, inner, outputs, stride=1 if stage == 0 else 2)
            stages.append(nn.Sequential(first, *(Residual(outputs, inner, outputs) for _ in range(depth - 1))))
            inputs = outputs
        self.stages = nn.Sequential(*stages)
        self.head = nn.Linear(inputs, 10)

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits of the ten digits."""
        return self.head(self.stages(self.stem(images)).mean(dim=(2, 3)))
