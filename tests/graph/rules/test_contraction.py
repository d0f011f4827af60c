from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from tests.graph.support import Tiny, check, codes, sizes, weight


def test_linear() -> None:
    net = Tiny(lambda s, x: s.b(F.relu(s.a(x))), a=nn.Linear(6, 10), b=nn.Linear(10, 3))
    analysis = check(net, torch.randn(4, 6))
    assert sizes(analysis) == [10]
    assert codes(analysis) == {"input", "output"}
    assert analysis.axes[0].parameters == ("a.weight", "a.bias", "b.weight")


def test_a_residual_stream_and_its_hidden_layers_are_axes() -> None:
    net = Tiny(
        lambda s, x: s.out((y := s.a(x)) + s.c(torch.tanh(s.b(y)))),
        a=nn.Linear(5, 8), b=nn.Linear(8, 12), c=nn.Linear(12, 8), out=nn.Linear(8, 2),
    )  # fmt: skip
    analysis = check(net, torch.randn(3, 5))
    assert {axis.size: axis.kind for axis in analysis.axes} == {8: "stream", 12: "width"}


def test_matrix_products_with_vectors_and_broadcast_batches() -> None:
    net = Tiny(
        lambda s, x: torch.matmul(torch.matmul(x, s.a).relu().unsqueeze(1), s.b).squeeze(1) @ s.v,
        a=weight(6, 8), b=weight(1, 8, 7), v=weight(7),
    )  # fmt: skip
    assert sizes(check(net, torch.randn(4, 6))) == [7, 8]


def test_addmm_ties_its_bias() -> None:
    net = Tiny(
        lambda s, x: torch.addmm(s.bias, x, s.a).relu() @ s.b,
        bias=weight(8), a=weight(6, 8), b=weight(8, 3),
    )  # fmt: skip
    analysis = check(net, torch.randn(4, 6))
    assert "bias" in analysis.axes[0].parameters


def test_baddbmm() -> None:
    def forward(s: Tiny, x: torch.Tensor) -> torch.Tensor:
        h = torch.baddbmm(s.c, x, s.a.expand(x.shape[0], -1, -1)).relu()
        return torch.bmm(h, s.b.repeat(x.shape[0], 1, 1))

    net = Tiny(
        forward, c=weight(1, 1, 8), a=weight(1, 6, 8), b=weight(1, 8, 3),
    )  # fmt: skip
    assert sizes(check(net, torch.randn(4, 5, 6))) == [8]


def test_einsum_with_letters_ellipsis_and_an_implicit_result() -> None:
    net = Tiny(
        lambda s, x: torch.einsum(
            "bi,io", torch.einsum("...h,hi->...i", torch.einsum("bi,hi->bh", x, s.a).relu(), s.b), s.c
        ),
        a=weight(9, 6), b=weight(9, 8), c=weight(8, 3),
    )  # fmt: skip
    analysis = check(net, torch.randn(4, 6))
    assert sizes(analysis) == [8, 9]
    assert not analysis.trace.unknown


def test_an_expert_bank_bends_inside_its_experts() -> None:
    net = Tiny(
        lambda s, x: torch.einsum("ebh,eho->bo", torch.einsum("bi,eih->ebh", x, s.a).relu(), s.b),
        a=weight(4, 6, 8), b=weight(4, 8, 3),
    )  # fmt: skip
    assert sizes(check(net, torch.randn(5, 6))) == [4, 8]


def test_bilinear() -> None:
    net = Tiny(
        lambda s, x, y: s.out(s.b(s.a(x).relu(), s.c(y).relu()).relu()),
        a=nn.Linear(5, 8), c=nn.Linear(4, 7), b=nn.Bilinear(8, 7, 6), out=nn.Linear(6, 3),
    )  # fmt: skip
    assert sizes(check(net, torch.randn(4, 5), torch.randn(4, 4))) == [6, 7, 8]


def test_outer_product() -> None:
    net = Tiny(lambda s, x: x @ torch.outer(s.a, s.b).relu() @ s.c, a=weight(6), b=weight(8), c=weight(8, 3))
    assert sizes(check(net, torch.randn(4, 6))) == [8]


def test_tied_weights_in_transposed_roles() -> None:
    """An autoencoder: the same matrix in and, transposed, out; and a square one used both ways ties in and out."""
    net = Tiny(lambda s, x: F.linear(F.linear(x, s.w).relu(), s.w.t()), w=weight(8, 5))
    assert sizes(check(net, torch.randn(4, 5))) == [8]
    square = Tiny(
        lambda s, x: s.out(F.linear(F.linear(s.a(x).relu(), s.w).relu(), s.w.t())),
        w=weight(8, 8), a=nn.Linear(5, 8), out=nn.Linear(8, 2),
    )  # fmt: skip
    assert sizes(check(square, torch.randn(4, 5))) == [8, 8]
    same = Tiny(
        lambda s, x: s.out((y := s.a(x).relu()) + F.linear(y, s.w + s.w.t()).relu()),
        w=weight(8, 8), a=nn.Linear(5, 8), out=nn.Linear(8, 2),
    )  # fmt: skip
    assert sizes(check(same, torch.randn(4, 5))) == [8]


def test_tied_embedding_and_head() -> None:
    net = Tiny(lambda s, i: F.linear(s.mlp(s.emb(i)), s.emb.weight), emb=nn.Embedding(20, 8), mlp=nn.Linear(8, 8))
    net.head = net.emb
    analysis = check(net, torch.randint(0, 20, (3, 5)))
    assert sizes(analysis) == [8]
    assert "vocabulary" in codes(analysis)
