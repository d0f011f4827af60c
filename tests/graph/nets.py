"""The networks of the zoo: small instances of well-known architectures, and the inputs that they run on."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Inputs = tuple[nn.Module, tuple[Any, ...], dict[str, Any]]


@dataclass(frozen=True)
class Entry:
    """One network; ``graph`` names the reason where the user's class cannot run with other sizes."""

    name: str
    make: Callable[[], Inputs]
    kinds: frozenset[str]
    blocks: int
    graph: str = ""


def _entry(name: str, make: Callable[[], Inputs], kinds: str, blocks: int, graph: str = "") -> Entry:
    return Entry(name, make, frozenset(kinds.split()), blocks, graph)


def _vision(name: str, size: int = 32, **options: Any) -> Callable[[], Inputs]:
    def make() -> Inputs:
        from tests.helpers import torchvision_shim  # noqa: F401  (must come first)

        import torchvision  # isort: skip

        return torchvision.models.get_model(name, **options), (torch.randn(2, 3, size, size),), {}

    return make


def _timm(name: str, size: int, **options: Any) -> Callable[[], Inputs]:
    def make() -> Inputs:
        from tests.helpers import torchvision_shim  # noqa: F401  (must come first)

        import timm  # isort: skip

        return timm.create_model(name, **options), (torch.randn(2, 3, size, size),), {}

    return make


def _transformer(
    cls: str, config: str, options: Mapping[str, Any], inputs: Callable[[], dict[str, Any]]
) -> Callable[[], Inputs]:
    def make() -> Inputs:
        from tests.helpers import torchvision_shim  # noqa: F401  (must come first)

        import transformers  # isort: skip

        model = getattr(transformers, cls)(getattr(transformers, config)(**options))
        return model, (), inputs()

    return make


def _ids(length: int = 10) -> Tensor:
    return torch.randint(1, 90, (2, length))


class Recurrent(nn.Module):
    def __init__(self, layer: type[nn.Module]) -> None:
        super().__init__()
        self.emb, self.rnn = nn.Embedding(50, 16), layer(16, 24, batch_first=True)
        self.a, self.b = nn.Linear(24, 32), nn.Linear(32, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(torch.relu(self.a(self.rnn(self.emb(x))[0][:, -1])))


class Branches(nn.Module):
    """Concatenations, grouped and depthwise convolutions, a channel shuffle and a squeeze-excitation gate."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 12, 3, padding=1), nn.BatchNorm2d(12), nn.ReLU())
        self.left = nn.Sequential(nn.Conv2d(12, 8, 1), nn.BatchNorm2d(8), nn.ReLU())
        self.right = nn.Sequential(nn.Conv2d(12, 16, 3, padding=1, groups=4), nn.BatchNorm2d(16), nn.ReLU())
        self.depthwise = nn.Conv2d(24, 24, 3, padding=1, groups=24)
        self.gate = nn.Sequential(
            nn.AdaptiveAvgPool2d(1), nn.Conv2d(24, 6, 1), nn.ReLU(), nn.Conv2d(6, 24, 1), nn.Sigmoid()
        )
        self.head = nn.Linear(24 + 12, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        y = F.relu(self.depthwise(torch.cat([self.left(x), self.right(x)], 1)))
        return self.head(torch.cat([y * self.gate(y), x], 1).mean((2, 3)))


class Tied(nn.Module):
    """A language model whose head is its embedding, transposed."""

    def __init__(self) -> None:
        super().__init__()
        self.emb = nn.Embedding(40, 16)
        self.up, self.down, self.norm = nn.Linear(16, 24), nn.Linear(24, 16), nn.LayerNorm(16)
        self.head = nn.Linear(16, 40, bias=False)
        self.head.weight = self.emb.weight

    def forward(self, x: Tensor) -> Tensor:
        x = self.emb(x)
        return self.head(self.norm(x + self.down(F.relu(self.up(x)))))


_TEXT = {"num_hidden_layers": 2, "vocab_size": 100, "max_position_embeddings": 32}
_HEADS = "stream width heads head_width"

ZOO = [
    _entry("resnet18", _vision("resnet18"), "stream width", 5),
    _entry("mobilenet_v3_small", _vision("mobilenet_v3_small"), "stream width", 6),
    _entry("densenet121", _vision("densenet121"), "width", 0),
    _entry("convnext_tiny", _vision("convnext_tiny", 64), "stream width", 18),
    _entry("shufflenet", _vision("shufflenet_v2_x0_5"), "width", 0),
    _entry("torchvision vit", _vision("vit_b_32", 64, image_size=64), _HEADS, 12),
    _entry("torchvision swin", _vision("swin_t", 64), _HEADS, 12),
    _entry("timm vit", _timm("vit_tiny_patch16_224", 32, img_size=32, depth=3), _HEADS, 3),
    _entry("timm mixer", _timm("mixer_s16_224", 32, img_size=32), "stream width", 3),
    _entry(
        "timm swin",
        _timm("swin_tiny_patch4_window7_224", 56, img_size=56, depths=(1, 1, 2, 1), embed_dim=48), _HEADS, 2,
    ),
    _entry(
        "hf vit",
        _transformer(
            "ViTForImageClassification", "ViTConfig",
            {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64,
             "image_size": 32, "patch_size": 8},
            lambda: {"pixel_values": torch.randn(2, 3, 32, 32)},
        ), _HEADS, 2,
    ),
    _entry(
        "gpt2",
        _transformer(
            "GPT2LMHeadModel", "GPT2Config",
            {"n_embd": 32, "n_layer": 2, "n_head": 4, "vocab_size": 100, "n_positions": 32,
             "bos_token_id": 1, "eos_token_id": 2},
            lambda: {"input_ids": _ids(), "use_cache": False},
        ), _HEADS, 2,
    ),
    _entry(
        "llama",
        _transformer(
            "LlamaForCausalLM", "LlamaConfig",
            {**_TEXT, "hidden_size": 48, "intermediate_size": 64, "num_attention_heads": 6, "num_key_value_heads": 2},
            lambda: {"input_ids": _ids(), "use_cache": False},
        ), f"{_HEADS} group", 2,
    ),
    _entry(
        "bert",
        _transformer(
            "BertForSequenceClassification", "BertConfig",
            {**_TEXT, "hidden_size": 32, "num_attention_heads": 4, "intermediate_size": 64},
            lambda: {"input_ids": _ids(), "attention_mask": torch.tensor([[1] * 10, [1] * 6 + [0] * 4])},
        ), _HEADS, 2,
    ),
    _entry(
        "t5",
        _transformer(
            "T5ForConditionalGeneration", "T5Config",
            {"d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_heads": 4, "vocab_size": 100},
            lambda: {"input_ids": _ids(), "decoder_input_ids": _ids(7), "use_cache": False},
        ), "width heads head_width", 4,
    ),
    _entry("lstm", lambda: (Recurrent(nn.LSTM), (torch.randint(0, 50, (3, 7)),), {}), "width", 0),
    _entry("gru", lambda: (Recurrent(nn.GRU), (torch.randint(0, 50, (3, 7)),), {}), "width", 0),
    _entry("branches", lambda: (Branches(), (torch.randn(2, 3, 12, 12),), {}), "width", 0),
    _entry("tied", lambda: (Tied(), (torch.randint(0, 40, (3, 7)),), {}), "stream width", 0),
]  # fmt: skip
