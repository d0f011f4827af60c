"""A small vision transformer for 8x8 images. Plain PyTorch: nothing here knows Pliant."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Attention(nn.Module):
    """Multi-head self-attention with one fused projection; ``heads * head_dim`` need not equal ``dim``.

    Shapes: ``(B, N, dim) -> (B, N, dim)``.
    """

    def __init__(self, dim: int, heads: int, head_dim: int) -> None:
        super().__init__()
        self.num_heads = heads
        self.head_dim = head_dim
        self.qkv = nn.Linear(dim, 3 * heads * head_dim)
        self.proj = nn.Linear(heads * head_dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        """Mix the tokens."""
        batch, tokens, _ = x.shape
        qkv = self.qkv(x).reshape(batch, tokens, 3, self.num_heads, self.head_dim)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        mixed = F.scaled_dot_product_attention(q, k, v)
        return self.proj(mixed.transpose(1, 2).reshape(batch, tokens, self.num_heads * self.head_dim))


class FeedForward(nn.Module):
    """Two linear maps with a GELU between them: ``(B, N, dim) -> (B, N, dim)``."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden)
        self.fc2 = nn.Linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        """Map each token on its own."""
        return self.fc2(F.gelu(self.fc1(x)))


class Block(nn.Module):
    """A pre-norm transformer block: attention, then a feed-forward, each on a residual path."""

    def __init__(self, dim: int, heads: int, head_dim: int, mlp_dim: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim)
        self.attn = Attention(dim, heads, head_dim)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = FeedForward(dim, mlp_dim)

    def forward(self, x: Tensor) -> Tensor:
        """Add what attention and the feed-forward found."""
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class DigitsViT(nn.Module):
    """Patches of 2x2, learned positions, pre-norm blocks, mean over tokens: ``(B, 1, 8, 8) -> (B, 10)``.

    Every size is an argument, so that a smaller uniform network can be built by hand; the mean over tokens stands in
    for a class token.
    """

    def __init__(
        self, dim: int = 64, depth: int = 5, heads: int = 4, head_dim: int = 16, mlp_dim: int = 256, patch: int = 2
    ) -> None:
        super().__init__()
        self.patches = nn.Conv2d(1, dim, kernel_size=patch, stride=patch)
        self.positions = nn.Parameter(torch.empty(1, (8 // patch) ** 2, dim))
        self.blocks = nn.ModuleList([Block(dim, heads, head_dim, mlp_dim) for _ in range(depth)])
        self.norm = nn.LayerNorm(dim)
        self.head = nn.Linear(dim, 10)
        nn.init.normal_(self.positions, std=0.5)  # as large as the patches: smaller ones are learnt far more slowly

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits of the ten digits."""
        x = self.patches(images).flatten(2).transpose(1, 2) + self.positions
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x).mean(dim=1))
