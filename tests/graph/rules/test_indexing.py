from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from tests.graph.support import Tiny, check, codes, sizes, weight


def _net(middle, width: int = 8) -> Tiny:
    return Tiny(lambda s, x: s.b(middle(s.a(x).relu())), a=nn.Linear(5, width), b=nn.Linear(width, 2))


@pytest.mark.slow
@pytest.mark.parametrize(
    "middle",
    [
        lambda h: h.cumsum(-1),
        lambda h: h.flip(1),
        lambda h: h.roll(1, 1),
        lambda h: h.roll(1),
        lambda h: h.sort(-1)[0],
        lambda h: h[:, torch.tensor([1, 0, 3, 2, 5, 4, 7, 6])],
        lambda h: h.index_select(1, torch.arange(8)),
        lambda h: h * (torch.arange(8) < 4),
        lambda h: h.tril(),
        lambda h: torch.diff(h, dim=-1, prepend=h[:, :1]),
        lambda h: h * h.argmax(-1, keepdim=True),
        lambda h: h * h.max(-1, keepdim=True)[1],
        lambda h: h.gather(1, h.argsort(-1)),
        lambda h: h.unfold(1, 1, 1).squeeze(-1),
        lambda h: h.scatter(1, torch.zeros(3, 1, dtype=torch.long), 0.0),
        lambda h: h.topk(8, -1)[0],
    ],
)
def test_where_the_order_of_units_counts_they_are_kept(middle) -> None:
    analysis = check(_net(middle), torch.randn(3, 5), batch=False)
    assert sizes(analysis) == []
    assert codes(analysis) & {"order", "vocabulary", "operation"}


@pytest.mark.slow
@pytest.mark.parametrize(
    "middle",
    [
        lambda h: h.cumsum(1),
        lambda h: h.flip(1),
        lambda h: h.roll((1,), (1,)),
        lambda h: h[:, torch.tensor([1, 0, 2])],
        lambda h: h[:, [0, 0], :],
        lambda h: h.index_select(1, torch.arange(3)),
        lambda h: torch.diff(h, dim=1, append=h[:, :1]),
        lambda h: h.max(1)[0],
        lambda h: h * h.max(-1, keepdim=True)[0],
        lambda h: torch.max(h, 0.5 * h.mean(1, keepdim=True)),
        lambda h: h.median(1)[0],
        lambda h: h.unfold(1, 2, 1).sum(-1),
        lambda h: h.topk(2, 1)[0],
        lambda h: h.gather(1, torch.zeros_like(h, dtype=torch.long)),
        lambda h: h * h.amax(-1, keepdim=True) / (h.sum(-1, keepdim=True) + 1),
    ],
)
def test_along_other_dimensions_the_units_are_free(middle) -> None:
    analysis = check(_net(middle), torch.randn(4, 3, 5))
    assert sizes(analysis) == [8]
    assert not analysis.trace.unknown


def test_embedding_rows_are_kept_and_columns_bend() -> None:
    net = Tiny(lambda s, i: s.b(s.e(i)), e=nn.Embedding(20, 8), b=nn.Linear(8, 2))
    analysis = check(net, torch.randint(0, 20, (3, 5)))
    assert sizes(analysis) == [8]
    assert "vocabulary" in codes(analysis)


@pytest.mark.parametrize("mode", ["sum", "mean", "max"])
def test_bags_of_an_embedding_bend_in_their_columns(mode: str) -> None:
    net = Tiny(lambda s, i: s.b(s.e(i)), e=nn.EmbeddingBag(20, 8, mode=mode), b=nn.Linear(8, 2))
    analysis = check(net, torch.randint(0, 20, (3, 5)))
    assert sizes(analysis) == [8]
    assert not analysis.trace.unknown


def test_weighted_bags_of_unequal_lengths() -> None:
    table = nn.EmbeddingBag(20, 8, mode="sum", include_last_offset=True)
    net = Tiny(lambda s, i, starts, w: s.b(s.e(i, starts, per_sample_weights=w)), e=table, b=nn.Linear(8, 2))
    analysis = check(net, torch.randint(0, 20, (7,)), torch.tensor([0, 3, 7]), torch.randn(7), batch=False)
    assert sizes(analysis) == [8]
    assert "vocabulary" in codes(analysis)


def test_a_table_of_relative_positions_bends_in_its_heads() -> None:
    def forward(s: Tiny, x: Tensor) -> Tensor:
        h = s.a(x)
        q = h.view(*h.shape[:2], 4, 6).transpose(1, 2)
        bias = s.table[s.places.view(-1)].view(3, 3, -1).permute(2, 0, 1)
        y = torch.softmax(q @ q.mT + bias, -1) @ q
        return s.b(y.transpose(1, 2).flatten(2))

    net = Tiny(forward, a=nn.Linear(5, 24), b=nn.Linear(24, 2), table=weight(5, 4), places=torch.randint(0, 5, (3, 3)))
    analysis = check(net, torch.randn(2, 3, 5), mask=False)
    assert {axis.kind: axis.size for axis in analysis.axes} == {"heads": 4, "head_width": 6}
    assert any("table" in axis.parameters for axis in analysis.axes)


def test_a_buffer_of_indices_is_cut_with_what_it_makes() -> None:
    net = Tiny(
        lambda s, x: s.b(s.a(x).relu()[:, s.order] * s.scale),
        a=nn.Linear(5, 8), order=torch.tensor([3, 1, 7, 5]), scale=weight(4), b=nn.Linear(4, 2),
    )  # fmt: skip
    analysis = check(net, torch.randn(3, 5))
    assert sizes(analysis) == [4]
    assert "vocabulary" in codes(analysis)


def test_two_index_tensors_apart() -> None:
    net = Tiny(
        lambda s, x: s.b(s.a(x).view(-1, 3, 4, 2)[:, s.i, :, s.j].sum(0)),
        a=nn.Linear(5, 24), i=torch.tensor([0, 2]), j=torch.tensor([1, 0]), b=nn.Linear(4, 2),
    )  # fmt: skip
    assert sizes(check(net, torch.randn(3, 5), batch=False)) == [4]


def test_a_mask_as_an_index_keeps_everything_it_touches() -> None:
    """How many rows a mask takes is only known at run time."""
    net = _net(lambda h: h[h.sum(-1) > 1e9].sum(0, keepdim=True) + h)
    assert sizes(check(net, torch.randn(3, 5))) == []


def test_one_hot() -> None:
    net = Tiny(lambda s, i: s.b((nn.functional.one_hot(i, 6).float() @ s.w).relu()), w=weight(6, 8), b=nn.Linear(8, 2))
    analysis = check(net, torch.randint(0, 6, (3, 4)), batch=False)
    assert sizes(analysis) in ([8], [])


@pytest.mark.parametrize("places", [[-2, -1], [6, 7]])
def test_places_side_by_side_that_the_code_names_are_a_segment(places: list[int]) -> None:
    net = Tiny(
        lambda s, x: s.b(s.a(x)[..., :6].relu()) + s.c(s.a(x)[..., places]),
        a=nn.Linear(5, 8), b=nn.Linear(6, 3), c=nn.Linear(2, 3),
    )  # fmt: skip
    analysis = check(net, torch.randn(4, 5), form="graph" if places[0] > 0 else "module")
    assert sizes(analysis) == [6]


def test_places_apart_are_named_one_by_one() -> None:
    net = Tiny(lambda s, x: s.b(s.a(x)[..., [1, 3]].relu()), a=nn.Linear(5, 8), b=nn.Linear(2, 3))
    assert sizes(check(net, torch.randn(4, 5))) == []


@torch.library.custom_op("pliant_tests::grouped_mm", mutates_args=())
def _grouped_mm(x: Tensor, weight: Tensor, offs: Tensor) -> Tensor:
    ends = [0, *offs.tolist()]
    return torch.cat([x[a:b] @ w for a, b, w in zip(ends, ends[1:], weight, strict=False)])


@_grouped_mm.register_fake
def _(x: Tensor, weight: Tensor, offs: Tensor) -> Tensor:
    return x.new_empty(x.shape[0], weight.shape[2])


def test_a_bank_of_experts_that_rows_are_sorted_for() -> None:
    def forward(s: Tiny, x: Tensor) -> Tensor:
        x = s.a(x)
        chosen = s.router(x).argmax(-1)
        order = chosen.argsort()
        ends = torch.histc(chosen.float(), bins=3, min=0, max=2).cumsum(0).int()
        hidden = _grouped_mm(x[order], s.up, ends).relu()
        back = torch.empty_like(order)
        back[order] = torch.arange(x.shape[0])
        return s.b(_grouped_mm(hidden, s.down, ends)[back])

    net = Tiny(
        forward, a=nn.Linear(5, 8), b=nn.Linear(8, 2), router=nn.Linear(8, 3),
        up=weight(3, 8, 12), down=weight(3, 12, 8),
    )  # fmt: skip
    assert sizes(check(net, torch.randn(6, 5), batch=False)) == [8, 8, 12]
