"""A small GPT-like character model. Plain PyTorch: nothing here knows Pliant."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class CausalAttention(nn.Module):
    """Causal multi-head self-attention with one fused projection: ``(B, T, dim) -> (B, T, dim)``."""

    def __init__(self, dim: int, heads: int, head_dim: int) -> None:
        super().__init__()
        self.num_heads = heads
        self.head_dim = head_dim
        self.qkv = nn.Linear(dim, 3 * heads * head_dim)
        self.proj = nn.Linear(heads * head_dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        """Mix each place with the ones before it."""
        batch, length, _ = x.shape
        qkv = self.qkv(x).reshape(batch, length, 3, self.num_heads, self.head_dim)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.proj(mixed.transpose(1, 2).reshape(batch, length, self.num_heads * self.head_dim))


class Block(nn.Module):
    """A pre-norm transformer block: causal attention, then a feed-forward, each on a residual path."""

    def __init__(self, dim: int, heads: int, head_dim: int, mlp_dim: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim)
        self.attn = CausalAttention(dim, heads, head_dim)
        self.norm2 = nn.LayerNorm(dim)
        self.fc1 = nn.Linear(dim, mlp_dim)
        self.fc2 = nn.Linear(mlp_dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        """Add what attention and the feed-forward found."""
        x = x + self.attn(self.norm1(x))
        return x + self.fc2(F.gelu(self.fc1(self.norm2(x))))


class CharGPT(nn.Module):
    """Token and learned position embeddings, causal blocks, and a head that shares the token embedding's weight.

    Shapes: tokens ``(B, T)`` of dtype long, ``T <= context``, to logits ``(B, T, vocabulary)``.
    """

    def __init__(
        self,
        vocabulary: int = 98,
        context: int = 128,
        dim: int = 128,
        depth: int = 4,
        heads: int = 4,
        head_dim: int = 32,
        mlp_dim: int = 512,
    ) -> None:
        super().__init__()
        self.context = context
        self.tokens = nn.Embedding(vocabulary, dim)
        self.positions = nn.Parameter(torch.empty(context, dim))
        self.blocks = nn.ModuleList([Block(dim, heads, head_dim, mlp_dim) for _ in range(depth)])
        self.norm = nn.LayerNorm(dim)
        self.head = nn.Linear(dim, vocabulary, bias=False)
        self.head.weight = self.tokens.weight
        # Of unit norm, so that the tied head starts with logits of unit variance and positions are seen at once.
        nn.init.normal_(self.tokens.weight, std=dim**-0.5)
        nn.init.normal_(self.positions, std=dim**-0.5)

    def forward(self, tokens: Tensor) -> Tensor:
        """Return the logits of the next character at each place."""
        x = self.tokens(tokens) + self.positions[: tokens.shape[1]]
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x))
