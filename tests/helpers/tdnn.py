"""A speaker network in the manner of EfficientTDNN (Wang, Wei, Wang, Li and Meng, 2021, arXiv 2103.13581), made small.

Time-delay layers are one-dimensional convolutions. Blocks are residual, with a Res2Net inside: channels in groups, each
group convolved together with what the one before it gave. The outputs of all blocks are aggregated, pooled to their
means and deviations over time, and embedded.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Res2Block(nn.Module):
    """``(B, width, T) -> (B, width, T)``; ``groups`` groups of ``hidden / groups`` channels."""

    def __init__(self, width: int, hidden: int, groups: int, kernel: int, dilation: int) -> None:
        super().__init__()
        each, pad = hidden // groups, dilation * (kernel // 2)
        self.enter, self.norm1 = nn.Conv1d(width, hidden, 1), nn.BatchNorm1d(hidden)
        self.convs = nn.ModuleList(
            [nn.Conv1d(each, each, kernel, padding=pad, dilation=dilation) for _ in range(groups - 1)]
        )
        self.leave, self.norm2 = nn.Conv1d(hidden, width, 1), nn.BatchNorm1d(width)
        self.groups = groups

    def forward(self, x: Tensor) -> Tensor:
        parts = F.relu(self.norm1(self.enter(x))).chunk(self.groups, 1)
        found = [parts[0]]
        for part, conv in zip(parts[1:], self.convs, strict=True):
            found.append(F.relu(conv(part + found[-1])))
        return x + self.norm2(self.leave(torch.cat(found, 1)))


class Tdnn(nn.Module):
    """``(B, 20, T) -> (B, speakers)``; ``embed`` gives the embeddings."""

    def __init__(self, width: int = 16, hidden: int = 16, depth: int = 3, kernel: int = 5, speakers: int = 6) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv1d(20, width, kernel, padding=kernel // 2), nn.BatchNorm1d(width)
        self.blocks = nn.ModuleList([Res2Block(width, hidden, 2, kernel, 1 + at) for at in range(depth)])
        self.aggregate = nn.Conv1d(depth * width, 24, 1)
        self.embed, self.head = nn.Linear(48, 8), nn.Linear(8, speakers)

    def forward(self, x: Tensor) -> Tensor:
        x, seen = F.relu(self.norm(self.stem(x))), []
        for block in self.blocks:
            x = block(x)
            seen.append(x)
        frames = F.relu(self.aggregate(torch.cat(seen, 1)))
        mean = frames.mean(2)
        spread = ((frames - mean[:, :, None]).square().mean(2) + 1e-5).sqrt()
        return self.head(torch.tanh(self.embed(torch.cat([mean, spread], 1))))
