"""Alternative operations in a transformer: norms, attentions with other arguments, gates; cut along all its axes."""

from __future__ import annotations

import random
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pliant.family import Family, at
from pliant.techniques.elastic.depth import Depth
from pliant.techniques.elastic.operations import Operations
from pliant.techniques.elastic.width import Width
from tests.family.nets import ViT, vectors

X = vectors(3, 4, 6)


class Pool(nn.Module):
    """In the place of an attention: the mean of all tokens."""

    def forward(self, x: Tensor, causal: bool = False) -> Tensor:
        return x.mean(1, keepdim=True).expand_as(x)


class Mix(nn.Module):
    """In the place of an attention: a linear layer for each token."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, width)

    def forward(self, x: Tensor, causal: bool = False) -> Tensor:
        return self.linear(x)


def family(*more: Any) -> Family:
    torch.manual_seed(0)
    return Family(ViT(), (X,), [
        *more,
        at("blocks.*.norm?", Operations({"rms": lambda original: nn.RMSNorm(original.normalized_shape)})),
        at("blocks.*.attn", Operations({"pool": Pool(), "mix": lambda original: Mix(16)}, identity=True)),
        at("blocks.*.fc1", Operations({"gate": lambda _: nn.Sequential(nn.Linear(16, 64), nn.GLU())}, per="role")),
    ])  # fmt: skip


def test_they_are_offered_by_layer_and_by_role() -> None:
    made = family()
    options = {choice.name: choice.options for choice in made.space.choices}
    assert options["blocks.1.attn.operation"] == ("identity", "pool", "mix", "original")
    assert options["blocks.*.fc1.operation"] == ("gate", "original")
    net: Any = made.extract({**made.space.largest(), "blocks.*.fc1.operation": "gate"})
    assert [type(block.fc1) for block in net.blocks] == [nn.Sequential, nn.Sequential]


@pytest.mark.slow
def test_they_are_cut_along_streams_and_hidden_widths() -> None:
    made = family(Width(multiple=2, kinds=("width", "heads", "stream")), Depth(per_block=True))
    plain = Family(made.model, (X,), [Width(multiple=2, kinds=("width", "heads", "stream")), Depth(per_block=True)])
    chosen: dict[str, Any] = {
        "stream": 8, "blocks.0.width": 16, "blocks.0.attn.operation": "mix", "blocks.1.attn.operation": "identity",
        "blocks.0.norm2.operation": "rms", "blocks.*.fc1.operation": "gate",
    }  # fmt: skip
    config = made.space.check({**made.space.largest(), **chosen})
    net: Any = made.extract(config)
    wanted: Any = plain.extract({choice.name: config[choice.name] for choice in plain.space.choices})
    extra = made.extra

    def gate(block: int, width: int, x: Tensor) -> Tensor:
        kept = [*range(width), *range(32, 32 + width)]  # of both halves
        weight, bias = (extra[f"blocks.{block}.fc1.operation.gate/0.{name}"] for name in ("weight", "bias"))
        return F.glu(F.linear(x, weight[kept, :8], bias[kept]))

    x = wanted.embed(X) + wanted.pos
    first, second = wanted.blocks
    mix = [extra[f"blocks.0.attn.operation.mix/linear.{name}"] for name in ("weight", "bias")]
    x = x + F.linear(first.norm1(x), mix[0][:8, :8], mix[1][:8])
    normed = F.rms_norm(x, (8,), extra["blocks.0.norm2.operation.rms/weight"][:8])
    x = x + first.fc2(F.gelu(gate(0, 16, normed)))
    x = x + second.norm1(x)
    x = x + second.fc2(F.gelu(gate(1, 32, second.norm2(x))))
    assert torch.allclose(net(X), wanted.head(wanted.norm(x).mean(1)), atol=1e-5)
    rng = random.Random(0)
    for _ in range(3):
        config = made.space.sample(rng)
        kept = made.draft(config).kept
        assert all(config[name] == units for name, units in kept.items())  # nothing had to be kept for them
        made.extract(config)  # which compares it with the member


@pytest.mark.slow
def test_exported_by_torch_alone() -> None:
    made = family(Width(multiple=2))
    net = made.extract(made.space.smallest())
    assert torch.allclose(torch.export.export(net, (X,)).module()(X), net(X), atol=1e-6)
