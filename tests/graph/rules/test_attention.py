from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.graph.support import Tiny, check, codes, sizes, weight


class Attention(nn.Module):
    """Attention with separate projections; ``groups`` key heads are shared by ``heads`` query heads."""

    def __init__(self, heads: int = 4, groups: int = 4, head_dim: int = 6, how: str = "fused", causal: bool = False):
        super().__init__()
        self.num_heads, self.num_kv_heads, self.head_dim, self.how, self.causal = heads, groups, head_dim, how, causal
        self.q = nn.Linear(8, heads * head_dim)
        self.k = nn.Linear(8, groups * head_dim)
        self.v = nn.Linear(8, groups * head_dim)
        self.out = nn.Linear(heads * head_dim, 3)
        self.bias = weight(heads, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        B, T, _ = x.shape
        q = self.q(x).view(B, T, self.num_heads, self.head_dim).transpose(1, 2)
        k = self.k(x).view(B, T, self.num_kv_heads, self.head_dim).transpose(1, 2)
        v = self.v(x).view(B, T, self.num_kv_heads, self.head_dim).transpose(1, 2)
        if self.how == "fused":
            y = F.scaled_dot_product_attention(
                q, k, v, is_causal=self.causal, enable_gqa=self.num_heads != self.num_kv_heads
            )
        elif self.how == "bias":
            y = F.scaled_dot_product_attention(q, k, v, attn_mask=self.bias.expand(-1, T, T))
        elif self.how == "einsum":
            y = torch.einsum("bhij,bhjd->bhid", torch.softmax(torch.einsum("bhid,bhjd->bhij", q, k), -1), v)
        elif self.how == "merged":
            q, k, v = (x.reshape(B * self.num_heads, T, self.head_dim) for x in (q, k, v))
            y = torch.bmm(torch.softmax(torch.bmm(q, k.mT), -1), v).view(B, self.num_heads, T, self.head_dim)
        else:
            y = torch.softmax(q @ k.transpose(-1, -2), -1) @ v
        return self.out(y.transpose(1, 2).reshape(B, T, self.num_heads * self.head_dim))


def _kinds(analysis) -> dict[str, int]:
    return {axis.kind: axis.size for axis in analysis.axes}


@pytest.mark.parametrize("how", ["fused", "bias", "einsum", "matmul", "merged"])
def test_heads_and_their_width_are_told_apart(how: str) -> None:
    analysis = check(Attention(how=how), torch.randn(2, 5, 8), mask=False)
    assert _kinds(analysis) == {"heads": 4, "head_width": 6}
    if how == "bias":
        assert any("bias" in axis.parameters for axis in analysis.axes)


def test_cutting_heads_equals_masking_them() -> None:
    from pliant.graph.realise import difference, outputs, sliced_copy
    from pliant.graph.slicing import Slicing
    from tests.graph.support import masked

    net, x = Attention(how="bias"), torch.randn(2, 5, 8)
    analysis = check(net, x, mask=False)
    heads = next(axis.name for axis in analysis.axes if axis.kind == "heads")
    slicing = Slicing(analysis, {heads: [2, 0]})
    cut, full = sliced_copy(net, slicing, "module"), masked(net, slicing)
    assert difference(outputs(cut, (x,), {}), outputs(full, (x,), {})) < 1e-5


def test_grouped_queries() -> None:
    net = Attention(heads=6, groups=2)
    analysis = check(net, torch.randn(2, 5, 8), mask=False)
    assert _kinds(analysis) == {"heads": 2, "group": 3, "head_width": 6}


def test_one_key_head_for_all() -> None:
    net = Attention(heads=4, groups=1)
    assert _kinds(check(net, torch.randn(2, 5, 8), mask=False)) == {"heads": 4, "head_width": 6}


def test_learned_queries_bend_unless_a_causal_mask_counts_them() -> None:
    def forward(causal: bool):
        def run(s: Tiny, x: Tensor) -> Tensor:
            q = s.queries.expand(x.shape[0], -1, -1)
            y = F.scaled_dot_product_attention(q, s.k(x), s.v(x), is_causal=causal)
            return s.out(y).mean(1)

        return Tiny(run, queries=weight(1, 5, 6), k=nn.Linear(8, 6), v=nn.Linear(8, 6), out=nn.Linear(6, 2))

    free = check(forward(False), torch.randn(2, 5, 8), mask=False)
    assert sizes(free) == [5, 6, 6]
    counted = check(forward(True), torch.randn(2, 5, 8), mask=False)
    assert sizes(counted) == [6, 6]
    assert "order" in codes(counted)


def test_the_fused_module_of_torch_bends_in_graph_form() -> None:
    net = Tiny(
        lambda s, x: s.out((y := s.inp(x)) + s.mha(y, y, y, need_weights=False)[0]),
        inp=nn.Linear(5, 16), mha=nn.MultiheadAttention(16, 4, batch_first=True), out=nn.Linear(16, 2),
    )  # fmt: skip
    analysis = check(net, torch.randn(3, 6, 5), mask=False)
    assert {"heads", "head_width"} <= set(_kinds(analysis))


@pytest.mark.parametrize(
    "repeated",
    [
        lambda s, k: k.repeat_interleave(s.heads // s.groups, dim=1),
        lambda s, k: torch.repeat_interleave(k, 3, 1),
        lambda s, k: k.repeat(1, 3, 1, 1),
    ],
    ids=["computed", "a number", "in turn"],
)
def test_key_heads_that_are_repeated_for_their_queries(repeated: Any) -> None:
    def forward(s: Tiny, x: torch.Tensor) -> torch.Tensor:
        q, k, v = (part(x).unflatten(-1, (-1, 4)).transpose(1, 2) for part in (s.q, s.k, s.v))
        mixed = F.scaled_dot_product_attention(q, repeated(s, k), repeated(s, v))
        return s.out(mixed.transpose(1, 2).flatten(2))

    net = Tiny(
        forward, q=nn.Linear(5, 24), k=nn.Linear(5, 8), v=nn.Linear(5, 8), out=nn.Linear(24, 2), heads=6, groups=2
    )
    analysis = check(net, torch.randn(3, 7, 5), mask=False)
    assert sizes(analysis) == [2, 3, 4]
    assert {axis.kind for axis in analysis.axes} == {"heads", "group", "head_width"}
