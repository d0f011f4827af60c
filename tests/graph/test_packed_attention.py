"""torch's own attention with free sizes: at full size it is torch's, cut it is the graph's."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pliant import Depth, Family, Width
from pliant.graph import analyze
from pliant.graph.packed_attention import FreeAttention
from pliant.graph.realise import compare_forms, sliced_copy
from pliant.graph.slicing import Slicing
from tests.graph.support import Tiny, check, randomise


@pytest.mark.parametrize("weights", [True, False])
@pytest.mark.parametrize("masked", [None, "padding", "causal", "float", "heads", "both"])
@pytest.mark.parametrize(
    "options",
    [{}, {"batch_first": True}, {"kdim": 6, "vdim": 5}, {"add_bias_kv": True, "add_zero_attn": True}, {"bias": False}],
)
def test_at_full_size_it_is_torchs_own(options: dict[str, Any], masked: str | None, weights: bool) -> None:
    own = randomise(nn.MultiheadAttention(8, 2, **options))
    free: Any = nn.MultiheadAttention(8, 2, **options).eval()
    free.load_state_dict(own.state_dict())
    free.__class__ = FreeAttention
    q, k, v = torch.randn(4, 3, 8), torch.randn(5, 3, options.get("kdim", 8)), torch.randn(5, 3, options.get("vdim", 8))
    if options.get("batch_first"):
        q, k, v = (x.transpose(0, 1) for x in (q, k, v))
    given: dict[str, Any] = {"need_weights": weights, "average_attn_weights": masked is None}
    if masked in ("padding", "both"):
        given["key_padding_mask"] = torch.arange(5).expand(3, 5) > torch.tensor([[4], [2], [3]])
    if masked in ("causal", "both"):
        given["attn_mask"] = torch.ones(4, 5, dtype=torch.bool).triu(1)
    if masked in ("float", "heads"):
        given["attn_mask"] = torch.randn(4, 5) if masked == "float" else torch.randn(6, 4, 5)
    for left, right in zip(own(q, k, v, **given), free(q, k, v, **given), strict=True):
        assert (left is None) == (right is None)
        assert left is None or torch.allclose(left, right, atol=1e-5)


def test_one_sequence_without_a_batch() -> None:
    own = randomise(nn.MultiheadAttention(8, 2))
    free: Any = nn.MultiheadAttention(8, 2).eval()
    free.load_state_dict(own.state_dict())
    free.__class__ = FreeAttention
    x = torch.randn(4, 8)
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(own(x, x, x), free(x, x, x), strict=True))


@pytest.mark.parametrize("options", [{}, {"kdim": 6, "vdim": 6}])
def test_cut_it_is_the_graphs(options: dict[str, Any]) -> None:
    net = Tiny(
        lambda s, x: s.out(s.attn(s.q(x), y := s.kv(x), y, need_weights=False)[0].relu()),
        q=nn.Linear(5, 8), kv=nn.Linear(5, options.get("kdim", 8)), out=nn.Linear(8, 2),
        attn=nn.MultiheadAttention(8, 4, batch_first=True, **options),
    )  # fmt: skip
    check(net, torch.randn(3, 6, 5), mask=False)


def test_sizes_that_torchs_own_class_can_have_keep_it() -> None:
    net = Tiny(
        lambda s, x: s.out(s.attn(y := s.q(x), y, y)[0]),
        q=nn.Linear(5, 8), out=nn.Linear(8, 2), attn=nn.MultiheadAttention(8, 4, batch_first=True),
    )  # fmt: skip
    analysis = analyze(net, (torch.randn(3, 6, 5),))
    kinds = {axis.kind: axis.name for axis in analysis.axes}
    others = [axis.name for axis in analysis.axes if axis.size == 8]
    slicing = Slicing(analysis, {kinds["heads"]: [3, 1], **dict.fromkeys(others, 4)})
    cut: Any = sliced_copy(net, slicing, "module")
    assert type(cut.attn) is nn.MultiheadAttention
    assert (cut.attn.embed_dim, cut.attn.num_heads, cut.attn.head_dim) == (4, 2, 2)
    assert compare_forms(net, slicing, analysis)[0] <= 1e-5


@pytest.mark.parametrize("first", [True, False])
def test_the_layers_of_torchs_transformer(first: bool) -> None:
    net = nn.Sequential(
        nn.Linear(5, 8), nn.TransformerEncoderLayer(8, 4, 12, batch_first=True, norm_first=first), nn.Linear(8, 2)
    )
    analysis = check(net, torch.randn(3, 6, 5), mask=False)
    assert {"heads", "width"} <= {axis.kind for axis in analysis.axes}
    assert [block.name for block in analysis.blocks] == ["1"]


class Padded(nn.Module):
    """Torch's own encoder on sequences of unequal lengths, of which it packs the real tokens when it evaluates."""

    def __init__(self) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(8, 4, 12, batch_first=True)
        self.encoder, self.out = nn.TransformerEncoder(layer, 2), nn.Linear(8, 2)

    def forward(self, x: Tensor, padding: Tensor) -> Tensor:
        x = self.encoder(x, src_key_padding_mask=padding)
        return self.out(x.masked_fill(padding[..., None], 0).sum(1))


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors:UserWarning")
def test_an_encoder_that_packs_padded_sequences() -> None:
    net, padding = randomise(Padded()), torch.arange(6) >= torch.tensor([[6], [4], [2]])
    args = torch.randn(3, 6, 8), padding
    family = Family(net, args, [Width(ratios=(0.5, 1.0), multiple=1), Depth(least=0.5, order="first")])
    base = net.eval()(*args)
    assert torch.equal(family.extract(family.space.largest())(*args), base)
    assert family.form == "module", family.why_graph
    heads = next(choice.name for choice in family.space.choices if choice.name.endswith("heads"))
    for cut in (family.space.smallest(), {heads: 2}):
        small = family.extract(family.space.complete(cut))
        assert isinstance(small, Padded)
        alone = [small(args[0][i : i + 1, :n], padding[i : i + 1, :n]) for i, n in enumerate((6, 4, 2))]
        torch.testing.assert_close(small(*args), torch.cat(alone))
