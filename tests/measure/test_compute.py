"""MACs against hand counts."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from pliant.measure import Macs


class Attention(nn.Module):
    def __init__(self, mask: bool = False, causal: bool = False) -> None:
        super().__init__()
        self.mask, self.causal = mask, causal

    def forward(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        mask = torch.zeros(q.shape[-2], k.shape[-2]) if self.mask else None
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=self.causal)


def count(net: nn.Module, *args: torch.Tensor, **kwargs: torch.Tensor) -> float:
    return Macs(args, example_kwargs=kwargs).measure(net).value


def test_linear_counts_rows_times_inputs_times_outputs() -> None:
    assert count(nn.Linear(7, 5), torch.randn(3, 7)) == 3 * 7 * 5
    assert count(nn.Linear(7, 5), torch.randn(2, 3, 7)) == 6 * 7 * 5
    assert count(nn.Linear(7, 5), torch.randn(7)) == 7 * 5


@pytest.mark.parametrize("groups", [1, 2, 4])
def test_convolution_divides_its_inputs_by_groups(groups: int) -> None:
    net = nn.Conv2d(4, 8, 3, stride=2, groups=groups)
    assert count(net, torch.randn(2, 4, 9, 9)) == 2 * 4 * 4 * 8 * (4 // groups) * 9


def test_transposed_convolution_counts_over_its_inputs() -> None:
    assert count(nn.ConvTranspose2d(4, 8, 3, groups=2), torch.randn(1, 4, 6, 6)) == 36 * 4 * 4 * 9


@pytest.mark.parametrize("options", [{}, {"mask": True}, {"causal": True}])
def test_attention_counts_scores_and_mixing(options: dict[str, bool]) -> None:
    q, k, v = torch.randn(2, 3, 5, 8), torch.randn(2, 3, 5, 8), torch.randn(2, 3, 5, 8)
    assert count(Attention(**options), q, k, v) == 2 * 3 * 5 * 5 * (8 + 8)


def test_attention_over_other_keys_and_wider_values() -> None:
    q, k, v = torch.randn(2, 3, 5, 8), torch.randn(2, 3, 7, 8), torch.randn(2, 3, 7, 4)
    assert count(Attention(), q, k, v) == 2 * 3 * 5 * 7 * (8 + 4)


def test_fused_transformer_layer_counts_as_its_parts() -> None:
    net = nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), 1).eval()
    projections, attention, feed_forward = 10 * 8 * 32, 2 * 5 * 5 * 16, 10 * 8 * 16 * 2
    assert count(net, torch.randn(2, 5, 8)) == projections + attention + feed_forward
    assert torch.backends.mha.get_fastpath_enabled()


@pytest.mark.parametrize(("kind", "gates"), [(nn.LSTM, 4), (nn.GRU, 3)])
@pytest.mark.parametrize("bidirectional", [False, True])
def test_recurrent_layers(kind: type[nn.Module], gates: int, bidirectional: bool) -> None:
    net = kind(8, 6, batch_first=True, bidirectional=bidirectional)
    directions = 2 if bidirectional else 1
    assert count(net, torch.randn(2, 5, 8)) == 10 * gates * 6 * (8 + 6) * directions


def test_products_with_vectors_and_bilinear_layers() -> None:
    class Vectors(nn.Module):
        def forward(self, matrix: torch.Tensor, vector: torch.Tensor) -> torch.Tensor:
            return torch.dot(matrix @ vector, torch.addmv(torch.zeros(5), matrix, vector))

    assert count(Vectors(), torch.randn(5, 4), torch.randn(4)) == 20 + 20 + 5
    assert count(nn.Bilinear(4, 5, 6), torch.randn(3, 4), torch.randn(3, 5)) == 3 * 4 * 5 * 6


def test_the_network_keeps_its_mode_and_gradients_stay_on() -> None:
    net = nn.Sequential(nn.Linear(3, 3), nn.Dropout()).train()
    net[1].eval()
    Macs((torch.randn(2, 3),)).measure(net)
    assert net.training
    assert net[0].training
    assert not net[1].training
    assert torch.is_grad_enabled()


def test_counts_on_the_meta_device_and_with_keywords() -> None:
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = nn.Linear(4, 2)

        def forward(self, x: torch.Tensor, *, scale: torch.Tensor) -> torch.Tensor:
            return self.body(x) * scale

    net = Scaled().to("meta")
    assert count(net, torch.empty(3, 4, device="meta"), scale=torch.empty((), device="meta")) == 24


def test_a_part_of_a_parameter_that_a_module_is_handed() -> None:
    """DeBERTa hands its table of relative positions to its layers; torch's counter would hook it and fail."""

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table, self.a = nn.Parameter(torch.randn(6, 5)), nn.Linear(5, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x + self.a(self.table[:4].unsqueeze(0)).sum()

    net = Net()
    assert Macs((torch.randn(2, 3),)).measure(net).value == 4 * 5 * 3
    assert all(parameter.requires_grad for parameter in net.parameters())
