"""A task for Pliant: a network, its data, its loss and its measure of error, in five functions.

Try it as it is, then put your own network and data in its place:

    pliant analyze THIS_FILE                       what bends in the network, what does not, and why
    pliant run THIS_FILE --out runs/first --quick

The example classifies the wines of scikit-learn's bundled set (178 wines, 13 measurements, 3 growers).
Nothing here needs Pliant: it is ordinary PyTorch, and can be imported by your own scripts too.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from sklearn.datasets import load_wine
from torch import Tensor, nn
from torch.nn import functional as F

# Defaults of a run; every one can be left out. "quick" holds what `--quick` changes.
SETTINGS = {
    "steps": 2000,  # training steps of the whole family: in each of them one member learns from one batch
    "lr": 2e-3,
    "weight_decay": 0.05,
    "warmup": 50,  # of these steps: the rate rises
    "unit": "%",  # of the error
    "tolerance": 1.5,  # how much more error than the full network's the report's headline accepts
    "budget": 40,  # how many members the search measures
    "quick": {"steps": 500, "budget": 12},
}


def _load() -> dict[str, tuple[Tensor, Tensor]]:
    """Read the data once and split it. Draw the split from a seed of its own, so that every run sees the same."""
    bunch = load_wine()
    x = torch.tensor(bunch.data, dtype=torch.float32)
    y = torch.tensor(bunch.target, dtype=torch.long)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    x, y = x[order], y[order]
    x = (x - x[:106].mean(0)) / x[:106].std(0)
    return {"train": (x[:106], y[:106]), "validation": (x[106:142], y[106:142]), "test": (x[142:], y[142:])}


DATA = _load()


class Block(nn.Module):
    """A residual block: Pliant can make its hidden layer narrower, or leave the block out."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.fc1 = nn.Linear(dim, hidden)
        self.fc2 = nn.Linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        """Add what the two layers found."""
        return x + self.fc2(F.gelu(self.fc1(self.norm(x))))


def model() -> nn.Module:
    """The network at its full size. Load your trained weights here if you have them."""
    return nn.Sequential(nn.Linear(13, 32), *(Block(32, 64) for _ in range(3)), nn.LayerNorm(32), nn.Linear(32, 3))


def example_args() -> tuple[Tensor]:
    """The arguments of one call of the network, with at least two examples in the batch.

    A tuple of positional arguments, or a dict of keyword arguments.
    """
    return (DATA["validation"][0][:4],)


def batches(seed: int, start: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
    """Training batches (inputs, targets), without end.

    Inputs are a tensor, a tuple of positional arguments or a dict of keyword arguments of the network. Let the k-th
    batch depend on `seed` and `k` only and begin with the `start`-th: a run that was killed then goes on with exactly
    the batches that it would have seen. (Without a parameter `start`, Pliant skips the first ones.)
    """
    x, y = DATA["train"]
    k = start
    while True:
        draw = torch.Generator().manual_seed(1_000_003 * seed + k)
        chosen = torch.randint(0, len(x), (32,), generator=draw)
        yield x[chosen], y[chosen]
        k += 1


def loss(outputs: Tensor, targets: Tensor) -> Tensor:
    """One number to make small, from the network's outputs and a batch's targets."""
    return F.cross_entropy(outputs, targets)


@torch.no_grad()
def evaluate(model: nn.Module, split: str = "validation") -> dict[str, float]:
    """What counts in the end, lower is better; the first figure guides the search.

    The search looks at "validation"; the report also shows "test". The network comes in evaluation mode.
    """
    x, y = DATA[split]
    wrong = (model(x).argmax(1) != y).float().mean()
    return {"error": 100.0 * wrong.item()}
