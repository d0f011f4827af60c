from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from pliant.checks import CaptureError
from pliant.graph import analyze
from tests.graph.support import Tiny, check, codes, sizes


def _layer(layer: nn.Module, width: int, first: bool = True) -> Tiny:
    def forward(s: Tiny, x: Tensor) -> Tensor:
        seen, _ = s.rnn(s.a(x))
        return s.b(seen[:, -1] if first else seen[-1])

    return Tiny(forward, a=nn.Linear(5, 10), rnn=layer, b=nn.Linear(width, 3))


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
@pytest.mark.parametrize("layers", [1, 2])
def test_the_hidden_width_of_a_recurrent_layer_bends(kind, layers: int) -> None:
    net = _layer(kind(10, 12, num_layers=layers, batch_first=True), 12)
    assert sizes(check(net, torch.randn(2, 4, 5))) == [10, 12]


def test_both_directions_have_one_width() -> None:
    net = _layer(nn.GRU(10, 6, num_layers=2, bidirectional=True, batch_first=True), 12)
    assert sizes(check(net, torch.randn(2, 4, 5))) == [6, 10]


def test_without_biases_and_with_time_first() -> None:
    net = _layer(nn.LSTM(10, 12, bias=False), 12, first=False)
    analysis = check(net, torch.randn(4, 2, 5), batch=False)
    assert sizes(analysis) == [10, 12]


@pytest.mark.filterwarnings("ignore:LSTM with projections")
def test_projected_outputs_have_a_width_of_their_own() -> None:
    net = _layer(nn.LSTM(10, 12, num_layers=2, proj_size=7, batch_first=True), 7)
    assert sizes(check(net, torch.randn(2, 4, 5))) == [7, 10, 12]


def test_states_from_another_layer_tie_their_width() -> None:
    def forward(s: Tiny, x: Tensor, y: Tensor) -> Tensor:
        _, state = s.encoder(x)
        return s.out(s.decoder(y, state)[0])

    net = Tiny(
        forward, encoder=nn.LSTM(5, 8, batch_first=True), decoder=nn.LSTM(4, 8, batch_first=True), out=nn.Linear(8, 3)
    )
    assert sizes(check(net, torch.randn(2, 6, 5), torch.randn(2, 3, 4))) == [8]


@pytest.mark.parametrize("kind", [nn.LSTMCell, nn.GRUCell, nn.RNNCell])
def test_the_hidden_width_of_a_cell_bends(kind) -> None:
    def forward(s: Tiny, x: Tensor) -> Tensor:
        state = None
        for step in range(x.shape[1]):
            state = s.cell(s.a(x[:, step]), state)
        return s.b(state[0] if isinstance(state, tuple) else state)

    net = Tiny(forward, a=nn.Linear(5, 10), cell=kind(10, 12), b=nn.Linear(12, 3))
    assert sizes(check(net, torch.randn(2, 3, 5))) == [10, 12]


def test_the_gates_stay_and_the_order_of_steps_counts() -> None:
    net = Tiny(lambda s, x: s.b(s.rnn(s.a(x).mT)[0].sum(1)), a=nn.Linear(5, 7), rnn=nn.LSTM(6, 4), b=nn.Linear(4, 3))
    analysis = analyze(net, (torch.randn(2, 6, 5),))
    assert sizes(analysis) == [4]  # the seven are the batch of the layer here
    assert {"gates", "batch"} & codes(analysis) == {"gates", "batch"}


@pytest.mark.slow
def test_packed_sequences_cannot_be_captured() -> None:
    def forward(s: Tiny, x: Tensor) -> Tensor:
        packed = nn.utils.rnn.pack_padded_sequence(s.a(x), torch.tensor([4, 2]), batch_first=True)
        return s.b(s.rnn(packed)[1][0])

    net = Tiny(forward, a=nn.Linear(5, 7), rnn=nn.GRU(7, 4, batch_first=True), b=nn.Linear(4, 3))
    with pytest.raises(CaptureError, match="captured"):
        analyze(net, (torch.randn(2, 4, 5),))
