"""Networks written for the zoo: recurrent, graph-like, U-Net style, expert banks, and those of the kernel's tests."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.graph.nets import Branches, Recurrent, Tied

from .entries import Inputs, Net


class UNet(nn.Module):
    """Two levels down and up with skip connections by concatenation, transposed convolutions and group norms."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.enter = self._double(3, width)
        self.down = self._double(width, 2 * width)
        self.middle = self._double(2 * width, 4 * width)
        self.up1 = nn.ConvTranspose2d(4 * width, 2 * width, 2, stride=2)
        self.join1 = self._double(4 * width, 2 * width)
        self.up2 = nn.ConvTranspose2d(2 * width, width, 2, stride=2)
        self.join2 = self._double(2 * width, width)
        self.leave = nn.Conv2d(width, 2, 1)

    @staticmethod
    def _double(inner: int, out: int) -> nn.Sequential:
        return nn.Sequential(
            nn.Conv2d(inner, out, 3, padding=1), nn.GroupNorm(4, out), nn.SiLU(),
            nn.Conv2d(out, out, 3, padding=1), nn.BatchNorm2d(out), nn.ReLU(),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        """Map images (B, 3, H, W) to masks (B, 2, H, W)."""
        a = self.enter(x)
        b = self.down(F.max_pool2d(a, 2))
        c = self.middle(F.avg_pool2d(b, 2))
        b = self.join1(torch.cat([b, self.up1(c)], 1))
        return self.leave(self.join2(torch.cat([a, self.up2(b)], 1)))


class MessagePassing(nn.Module):
    """Two rounds of messages along the edges of a graph: gathered from sources, added up at targets."""

    def __init__(self, width: int = 24) -> None:
        super().__init__()
        self.enter = nn.Linear(7, width)
        self.message = nn.ModuleList([nn.Linear(2 * width, 2 * width) for _ in range(2)])
        self.update = nn.ModuleList([nn.Linear(3 * width, width) for _ in range(2)])
        self.leave = nn.Linear(width, 3)

    def forward(self, nodes: Tensor, edges: Tensor) -> Tensor:
        """Map node features (N, 7) and edges (2, E) to node scores (N, 3)."""
        x = F.relu(self.enter(nodes))
        for message, update in zip(self.message, self.update, strict=True):
            pairs = torch.cat([x[edges[0]], x.index_select(0, edges[1])], -1)
            sent = F.relu(message(pairs))
            got = torch.zeros(x.shape[0], sent.shape[1]).index_add(0, edges[1], sent)
            x = x + F.relu(update(torch.cat([x, got], -1)))
        return self.leave(x)


class ScatterAttention(nn.Module):
    """Attention over a graph's edges: scores are normalised per target with scatter operations."""

    def __init__(self, width: int = 16, heads: int = 4) -> None:
        super().__init__()
        self.heads = heads
        self.project = nn.Linear(5, width)
        self.source, self.target = nn.Parameter(torch.randn(heads, width // heads)), nn.Parameter(torch.randn(heads, 4))
        self.leave = nn.Linear(width, 3)

    def forward(self, nodes: Tensor, edges: Tensor) -> Tensor:
        """Map node features (N, 5) and edges (2, E) to node scores (N, 3)."""
        x = self.project(nodes).unflatten(-1, (self.heads, -1))
        score = (x * self.source).sum(-1)[edges[0]] + (x * self.target).sum(-1)[edges[1]]
        score = F.leaky_relu(score, 0.2).exp()
        where = edges[1][:, None].expand_as(score)
        total = torch.zeros(nodes.shape[0], self.heads).scatter_add(0, where, score)
        share = score / total[edges[1]].clamp_min(1e-6)
        sent = (x[edges[0]] * share[..., None]).flatten(1)
        out = torch.zeros(nodes.shape[0], sent.shape[1]).index_put((edges[1],), sent, accumulate=True)
        return self.leave(F.elu(out))


class Experts(nn.Module):
    """A bank of experts stored as one 3-D tensor, all of them weighted by a router's softmax."""

    def __init__(self, width: int = 16, inner: int = 32, experts: int = 4) -> None:
        super().__init__()
        self.enter, self.norm = nn.Linear(6, width), nn.LayerNorm(width)
        self.router = nn.Linear(width, experts)
        self.up = nn.Parameter(torch.randn(experts, width, inner) * width**-0.5)
        self.down = nn.Parameter(torch.randn(experts, inner, width) * inner**-0.5)
        self.leave = nn.Linear(width, 4)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, T, 6) to (B, T, 4)."""
        x = self.enter(x)
        y = self.norm(x)
        share = self.router(y).softmax(-1)
        hidden = F.gelu(torch.einsum("btc,eci->btei", y, self.up))
        return self.leave(x + torch.einsum("btei,eic,bte->btc", hidden, self.down, share))


class Cells(nn.Module):
    """Recurrent cells called step by step in Python."""

    def __init__(self, cell: type[nn.Module], width: int = 20) -> None:
        super().__init__()
        self.emb, self.cell, self.out = nn.Embedding(30, 12), cell(12, width), nn.Linear(width, 5)

    def forward(self, x: Tensor) -> Tensor:
        """Map tokens (B, T) to scores (B, 5)."""
        x, state = self.emb(x), None
        for step in range(x.shape[1]):
            state = self.cell(x[:, step], state)
        return self.out(state[0] if isinstance(state, tuple) else state)


class Seq2Seq(nn.Module):
    """A bidirectional two-layer encoder whose states start a decoder, with attention over the encoder's outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.emb = nn.Embedding(30, 16)
        self.encoder = nn.LSTM(16, 20, num_layers=2, bidirectional=True, batch_first=True)
        self.decoder = nn.GRU(16, 40, batch_first=True)
        self.out = nn.Linear(80, 30)

    def forward(self, source: Tensor, target: Tensor) -> Tensor:
        """Map tokens (B, S) and (B, T) to scores (B, T, 30)."""
        memory, (hidden, _) = self.encoder(self.emb(source))
        start = torch.cat([hidden[-2], hidden[-1]], -1)[None]
        states, _ = self.decoder(self.emb(target), start)
        seen = (states @ memory.transpose(1, 2)).softmax(-1) @ memory
        return self.out(torch.cat([states, seen], -1))


class Waves(nn.Module):
    """Weight-normalised dilated 1-D convolutions with gates, as in WaveNet."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        norm = nn.utils.parametrizations.weight_norm
        self.enter = nn.Conv1d(1, width, 1)
        self.gates = nn.ModuleList([norm(nn.Conv1d(width, 4 * width, 3, dilation=2**i)) for i in range(3)])
        self.skips = nn.ModuleList([norm(nn.Conv1d(2 * width, width, 1)) for _ in range(3)])
        self.leave = nn.Conv1d(width, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, 1, T) to (B, 2, T)."""
        x = self.enter(x)
        for i, (gate, skip) in enumerate(zip(self.gates, self.skips, strict=True)):
            a, b = gate(F.pad(x, (2 * 2**i, 0))).chunk(2, 1)
            x = x + skip(a.tanh() * b.sigmoid())
        return self.leave(x)


class Torch(nn.Module):
    """torch's own encoder and decoder of transformers, with packed projections."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.emb = nn.Embedding(40, width)
        self.net = nn.Transformer(width, 4, 2, 2, 64, batch_first=True)
        self.out = nn.Linear(width, 40)

    def forward(self, source: Tensor, target: Tensor) -> Tensor:
        """Map tokens (B, S) and (B, T) to scores (B, T, 40)."""
        return self.out(self.net(self.emb(source), self.emb(target)))


class Spectral(nn.Module):
    """Convolutions under spectral normalisation and a bilinear head."""

    def __init__(self) -> None:
        super().__init__()
        norm = nn.utils.parametrizations.spectral_norm
        self.a, self.b = norm(nn.Conv2d(3, 16, 3)), norm(nn.Conv2d(16, 24, 3))
        self.left, self.right = nn.Linear(24, 12), nn.Linear(24, 20)
        self.out = nn.Bilinear(12, 20, 5)

    def forward(self, x: Tensor) -> Tensor:
        """Map images (B, 3, H, W) to scores (B, 5)."""
        y = F.relu(self.b(F.relu(self.a(x)))).mean((2, 3))
        return self.out(F.relu(self.left(y)), F.relu(self.right(y)))


def _edges() -> Tensor:
    return torch.tensor([[0, 1, 2, 3, 4, 5, 0, 2], [1, 2, 3, 4, 5, 0, 3, 5]])


def _tokens(length: int) -> Tensor:
    return torch.randint(1, 30, (2, length))


def _net(name: str, make: Callable[[], Inputs], attention: bool = False) -> Net:
    return Net(f"own/{name}", make, attention)


NETWORKS = [
    _net("lstm", lambda: (Recurrent(nn.LSTM), (torch.randint(0, 50, (3, 7)),), {})),
    _net("gru", lambda: (Recurrent(nn.GRU), (torch.randint(0, 50, (3, 7)),), {})),
    _net("branches", lambda: (Branches(), (torch.randn(2, 3, 12, 12),), {})),
    _net("tied", lambda: (Tied(), (torch.randint(0, 40, (3, 7)),), {})),
    _net("unet", lambda: (UNet(), (torch.randn(2, 3, 16, 16),), {})),
    _net("messages", lambda: (MessagePassing(), (torch.randn(6, 7), _edges()), {})),
    _net("graph-attention", lambda: (ScatterAttention(), (torch.randn(6, 5), _edges()), {})),
    _net("experts", lambda: (Experts(), (torch.randn(2, 5, 6),), {})),
    _net("lstm-cells", lambda: (Cells(nn.LSTMCell), (_tokens(4),), {})),
    _net("gru-cells", lambda: (Cells(nn.GRUCell), (_tokens(4),), {})),
    _net("rnn-cells", lambda: (Cells(nn.RNNCell), (_tokens(4),), {})),
    _net("seq2seq", lambda: (Seq2Seq(), (_tokens(6), _tokens(5)), {})),
    _net("waves", lambda: (Waves(), (torch.randn(2, 1, 20),), {})),
    _net("transformer", lambda: (Torch(), (_tokens(6), _tokens(5)), {}), True),
    _net("spectral", lambda: (Spectral(), (torch.randn(2, 3, 12, 12),), {})),
]
