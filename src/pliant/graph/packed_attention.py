"""torch's `nn.MultiheadAttention` with heads that no longer fill its width.

The original wants ``embed_dim == num_heads * head_dim`` and values as wide as queries. This subclass has the same
parameters under the same names and takes the same arguments; its sizes are those of its tensors.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .analysis import Analysis
from .dims import Dim, flat, product
from .slicing import Slicing


class FreeAttention(nn.MultiheadAttention):
    """Multi-head attention whose inner width is independent of the width of its input."""

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """Attend; arguments and results as `nn.MultiheadAttention` has them.

        ``query`` is (B, T, C) where ``batch_first``, (T, B, C) otherwise, or (T, C); masks as there.
        """
        single = query.dim() == 2
        if single:
            query, key, value = query[None], key[None], value[None]
            key_padding_mask = key_padding_mask[None] if key_padding_mask is not None else None
        elif not self.batch_first:
            query, key, value = (x.transpose(0, 1) for x in (query, key, value))
        q, k, v = self._projected(query, key, value)
        mask = self._mask(q, k, key_padding_mask, attn_mask)
        dropout = self.dropout if self.training else 0.0
        weights = None
        if need_weights:
            scores = (q * math.sqrt(1.0 / q.shape[-1])) @ k.transpose(-2, -1)
            weights = F.softmax(scores if mask is None else scores + mask, dim=-1)
            weights = F.dropout(weights, dropout) if dropout else weights
            out = weights @ v
            weights = weights.mean(1) if average_attn_weights else weights
        else:
            out = F.scaled_dot_product_attention(q, k, v, mask, dropout)
        out = F.linear(out.transpose(1, 2).flatten(2), self.out_proj.weight, self.out_proj.bias)
        if single:
            return out[0], weights[0] if weights is not None else None
        return (out if self.batch_first else out.transpose(0, 1)), weights

    def _projected(self, query: Tensor, key: Tensor, value: Tensor) -> Iterator[Tensor]:
        """Return queries, keys and values as (B, H, T, D)."""
        inner = self.out_proj.weight.shape[1]
        if self.in_proj_weight is not None:
            rows = (self.in_proj_weight.shape[0] - inner) // 2
            weights: tuple[Tensor, ...] = self.in_proj_weight.split([rows, rows, inner])
        else:
            weights = (self.q_proj_weight, self.k_proj_weight, self.v_proj_weight)
        sizes = [weight.shape[0] for weight in weights]
        biases = self.in_proj_bias.split(sizes) if self.in_proj_bias is not None else (None, None, None)
        parts = [F.linear(x, w, b) for x, w, b in zip((query, key, value), weights, biases, strict=True)]
        if self.bias_k is not None and self.bias_v is not None:
            batch = query.shape[0]
            parts[1] = torch.cat([parts[1], self.bias_k.expand(batch, 1, -1)], 1)
            parts[2] = torch.cat([parts[2], self.bias_v.expand(batch, 1, -1)], 1)
        if self.add_zero_attn:
            parts[1:] = [F.pad(part, (0, 0, 0, 1)) for part in parts[1:]]
        return (part.unflatten(2, (self.num_heads, -1)).transpose(1, 2) for part in parts)

    def _mask(self, q: Tensor, k: Tensor, padding: Tensor | None, mask: Tensor | None) -> Tensor | None:
        """Join both masks to one that is added, (B, H, T, S) or what broadcasts to it."""
        extra = k.shape[2] - (mask.shape[-1] if mask is not None else padding.shape[-1] if padding is not None else 0)
        if mask is not None:
            mask = F.pad(_added(mask, q.dtype), (0, extra))
            mask = mask.unflatten(0, (q.shape[0], self.num_heads)) if mask.dim() == 3 else mask
        if padding is not None:
            padding = F.pad(_added(padding, q.dtype), (0, extra))[:, None, None]
            return padding if mask is None else mask + padding
        return mask


def _added(mask: Tensor, dtype: torch.dtype) -> Tensor:
    if mask.dtype == torch.bool:
        return torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill_(mask, float("-inf"))
    return mask.to(dtype)


def attention_layers(model: nn.Module, analysis: Analysis) -> list[tuple[str, Dim]]:
    """Return the path of every `nn.MultiheadAttention` of the network and the term of its number of heads."""
    found = []
    aliases = analysis.capture.aliases
    for path, module in model.named_modules(remove_duplicate=False):
        if not isinstance(module, nn.MultiheadAttention):
            continue
        weight = f"{path}.out_proj.weight" if path else "out_proj.weight"
        row = analysis.trace.parameters.get(aliases.get(weight, weight))
        if row is None:
            continue
        taken: list[Any] = []
        for factor in flat(row[1], "product"):
            if math.prod(part.size for part in taken) >= module.num_heads:
                break
            taken.append(factor.root())
        if math.prod(part.size for part in taken) == module.num_heads:
            found.append((path, product(taken)))
    return found


def resize_attention(module: nn.Module, heads: Dim, slicing: Slicing) -> None:
    """Let an attention say its new sizes; one that torch's own class cannot have becomes a :class:`FreeAttention`."""
    assert isinstance(module, nn.MultiheadAttention)
    values = module.__dict__
    width, inner = module.out_proj.weight.shape
    count = slicing.size(heads)
    first = module.in_proj_weight if module.in_proj_weight is not None else module.q_proj_weight
    rows = (first.shape[0] - inner) // 2 if module.in_proj_weight is not None else first.shape[0]
    values.update(embed_dim=width, num_heads=count, head_dim=rows // count)
    if module.in_proj_weight is None:
        values.update(kdim=module.k_proj_weight.shape[1], vdim=module.v_proj_weight.shape[1])
    else:
        values.update(kdim=width, vdim=width)
    if type(module) is nn.MultiheadAttention and not (inner == rows == width):
        module.__class__ = FreeAttention
        values["_qkv_same_embed_dim"] = False  # keeps the fused fast path of torch's transformer layers away


def keep_padding(module: nn.Module) -> None:
    """Keep torch's encoder from packing sequences without their padding: that asks for whole attentions and layers.

    Padded places then hold numbers, as while it trains and as in the graph, where torch's own network has zeros.
    """
    if isinstance(module, nn.TransformerEncoder):
        module.__dict__["use_nested_tensor"] = False
