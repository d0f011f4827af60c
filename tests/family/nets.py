"""Small networks, each with one thing that a family must get right."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils import _pytree as pytree


class Residual(nn.Module):
    """A block with BatchNorm whose two convolutions share a hidden axis."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.conv1, self.norm1 = nn.Conv2d(width, hidden, 3, padding=1, bias=False), nn.BatchNorm2d(hidden)
        self.conv2, self.norm2 = nn.Conv2d(hidden, width, 3, padding=1, bias=False), nn.BatchNorm2d(width)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x + self.norm2(self.conv2(F.relu(self.norm1(self.conv1(x))))))


class ConvNet(nn.Module):
    """``(B, 1, 8, 8) -> (B, classes)``: a stem, residual blocks with BatchNorm, a linear head."""

    def __init__(self, width: int = 16, hidden: int = 16, blocks: int = 2, classes: int = 5) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(1, width, 3, padding=1), nn.BatchNorm2d(width)
        self.blocks = nn.Sequential(*(Residual(width, hidden) for _ in range(blocks)))
        self.head = nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norm(self.stem(x)))
        return self.head(self.blocks(F.max_pool2d(x, 2)).mean((2, 3)))


class FusedAttention(nn.Module):
    """Self-attention whose queries, keys and values come from one projection: its slices are no views."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.num_heads, self.head_dim = heads, dim // heads
        self.qkv, self.proj = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)

    def forward(self, x: Tensor, causal: bool = False) -> Tensor:
        batch, tokens, _ = x.shape
        qkv = self.qkv(x).reshape(batch, tokens, 3, self.num_heads, self.head_dim).permute(2, 0, 3, 1, 4)
        q, k, v = qkv.unbind(0)
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=causal)
        return self.proj(mixed.transpose(1, 2).reshape(batch, tokens, self.num_heads * self.head_dim))


class Layer(nn.Module):
    """A pre-norm transformer block."""

    def __init__(self, dim: int, heads: int, causal: bool = False) -> None:
        super().__init__()
        self.norm1, self.attn = nn.LayerNorm(dim), FusedAttention(dim, heads)
        self.norm2, self.fc1, self.fc2 = nn.LayerNorm(dim), nn.Linear(dim, 2 * dim), nn.Linear(2 * dim, dim)
        self.causal = causal

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x), self.causal)
        return x + self.fc2(F.gelu(self.fc1(self.norm2(x))))


class ViT(nn.Module):
    """``(B, 4, 6) -> (B, 5)``: four tokens, two blocks with fused projections."""

    def __init__(self, dim: int = 16, heads: int = 4, depth: int = 2) -> None:
        super().__init__()
        self.embed, self.pos = nn.Linear(6, dim), nn.Parameter(0.1 * torch.randn(1, 4, dim))
        self.blocks = nn.ModuleList([Layer(dim, heads) for _ in range(depth)])
        self.norm, self.head = nn.LayerNorm(dim), nn.Linear(dim, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x) + self.pos
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x).mean(1))


class Gpt(nn.Module):
    """``(B, T) tokens -> (B, T, 11)``: the embedding and the head are one tensor."""

    def __init__(self, dim: int = 16, heads: int = 2, depth: int = 2) -> None:
        super().__init__()
        self.embed, self.places = nn.Embedding(11, dim), nn.Embedding(6, dim)
        self.blocks = nn.ModuleList([Layer(dim, heads, causal=True) for _ in range(depth)])
        self.norm, self.head = nn.LayerNorm(dim), nn.Linear(dim, 11, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embed(tokens) + self.places(torch.arange(tokens.shape[1], device=tokens.device))
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x))


class Branches(nn.Module):
    """``(B, 8) -> (B, 3)``: two branches, concatenated; what stays of the second one lies in the middle of a tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(8, 16), nn.Linear(8, 24)
        self.out = nn.Linear(40, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(torch.cat([torch.relu(self.a(x)), torch.tanh(self.b(x))], 1))


class Twice(nn.Module):
    """``(B, 8) -> (B, 3)``: one layer is used two times."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.shared, self.out = nn.Linear(8, 16), nn.Linear(16, 16), nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.first(x))
        return self.out(torch.relu(self.shared(torch.relu(self.shared(x)))))


class HardCoded(nn.Module):
    """``(B, 4, 16) -> (B, 3)``: its forward writes its sizes as numbers, and checks them if ``strict``."""

    def __init__(self, strict: bool = False) -> None:
        super().__init__()
        self.strict = strict
        self.qkv, self.proj, self.norm = nn.Linear(16, 96), nn.Linear(32, 16), nn.LayerNorm(16)
        self.out = nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (t.reshape(-1, 4, 4, 8).transpose(1, 2) for t in self.qkv(self.norm(x)).split(32, -1))
        if self.strict and q.shape[1:] != (4, 4, 8):
            raise ValueError("4 heads, 8 wide")
        mixed = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(-1, 4, 32)
        return self.out((x + self.proj(mixed)).mean(1))


class HardCodedNorm(nn.Module):
    """``(B, 3, 4, 4) -> (B, 3)``: a hard-coded size after a BatchNorm, with dropout: statistics in graph form."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.out = nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), nn.Linear(16, 3)
        self.drop = nn.Dropout(0.5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.drop(torch.relu(self.norm(self.conv(x))))
        if x.shape[1] != 16:
            raise ValueError("16 channels")
        return self.out(x.reshape(-1, 16, 16).mean(2))


class TorchAttention(nn.Module):
    """``(B, 4, 16) -> (B, 3)``: torch's own attention module, whose checks and packed weights know the full size."""

    def __init__(self) -> None:
        super().__init__()
        self.attn, self.fc = nn.MultiheadAttention(16, 4, batch_first=True), nn.Linear(16, 24)
        self.out = nn.Linear(24, 3)

    def forward(self, x: Tensor) -> Tensor:
        mixed, _ = self.attn(x, x, x, need_weights=False)
        return self.out(torch.relu(self.fc(x + mixed)).mean(1))


@dataclass
class Answer:
    """A user's own container of outputs."""

    logits: Tensor
    parts: dict[str, tuple[Tensor, Tensor]]


pytree.register_dataclass(Answer, serialized_type_name="tests.family.nets.Answer")


class Structured(nn.Module):
    """``(B, 8), shift=(B, 16) -> Answer``: keyword arguments, and outputs in a nested container."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.fc2, self.out = nn.Linear(8, 16), nn.Linear(16, 16), nn.Linear(16, 3)

    def forward(self, x: Tensor, *, shift: Tensor | None = None, scale: float = 1.0) -> Answer:
        hidden = torch.relu(self.fc1(x)) * scale
        if shift is not None:
            hidden = hidden + shift.mean(1, keepdim=True)
        hidden = torch.relu(self.fc2(hidden))
        return Answer(self.out(hidden), {"sum": (hidden.sum(1), hidden.mean(1))})


def images(batch: int = 6, seed: int = 3) -> Tensor:
    """Inputs of :class:`ConvNet`."""
    return torch.randn(batch, 1, 8, 8, generator=torch.Generator().manual_seed(seed))


def tokens(batch: int = 3, seed: int = 3) -> Tensor:
    """Inputs of :class:`Gpt`."""
    return torch.randint(0, 11, (batch, 6), generator=torch.Generator().manual_seed(seed))


def vectors(*shape: int, seed: int = 3) -> Tensor:
    """Normally distributed inputs of any shape."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))
