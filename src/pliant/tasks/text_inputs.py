"""Example inputs for networks of transformers, from what their config and their forward's arguments say."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import Tensor, nn

_TOKENS = 16


def example_of(model: nn.Module) -> dict[str, Any]:
    """Return keyword arguments for one call of ``model`` with a batch of two: tokens, an image or a sound.

    Args:
        model: a network of transformers; ``config`` and ``main_input_name`` say what it takes.
    """
    config: Any = model.config
    names = set(inspect.signature(model.forward).parameters)
    main = str(getattr(model, "main_input_name", "input_ids"))
    inputs: dict[str, Any] = {}
    if "input_ids" in names and (main == "input_ids" or hasattr(config, "text_config")):
        inputs["input_ids"] = _tokens(_part(config, "text_config", "encoder"))
    if "pixel_values" in names and (main == "pixel_values" or hasattr(config, "vision_config")):
        inputs["pixel_values"] = _image(_part(config, "vision_config", "encoder"))
    if main == "input_values" and not inputs:
        inputs["input_values"] = torch.randn(2, 8000)
    if main == "input_features" and not inputs:
        inputs["input_features"] = _spectrum(config)
    if "decoder_input_ids" in names and getattr(config, "is_encoder_decoder", False):
        inputs["decoder_input_ids"] = _tokens(_part(config, "decoder"))
    if "use_cache" in names:
        inputs["use_cache"] = False
    return inputs


def _part(config: Any, *names: str) -> Any:
    return next((part for name in names if (part := getattr(config, name, None)) is not None), config)


def _tokens(config: Any) -> Tensor:
    length = min(_TOKENS, int(getattr(config, "max_position_embeddings", None) or _TOKENS))
    special = {getattr(config, f"{name}_token_id", None) for name in ("pad", "bos", "eos", "sep", "cls", "mask")}
    vocabulary = int(getattr(config, "vocab_size", None) or 100)
    usual = [i for i in range(min(vocabulary, 1000)) if i not in special] or [0]
    tokens = torch.tensor(usual)[torch.randint(0, len(usual), (2, length))]
    end = getattr(config, "eos_token_id", None)
    if isinstance(end, int) and 0 <= end < vocabulary:  # some pool the state at the end of the text
        tokens[:, -1] = end
    return tokens


def _image(config: Any) -> Tensor:
    size = getattr(config, "image_size", None) or 224
    height, width = size if isinstance(size, (list, tuple)) else (size, size)
    return torch.randn(2, int(getattr(config, "num_channels", None) or 3), int(height), int(width))


def _spectrum(config: Any) -> Tensor:
    bins = int(getattr(config, "num_mel_bins", None) or getattr(config, "feature_size", None) or 80)
    frames = getattr(config, "max_source_positions", None)
    if frames is not None and hasattr(config, "num_mel_bins"):  # Whisper: two frames a position, channels first
        return torch.randn(2, bins, 2 * int(frames))
    return torch.randn(2, 200, bins)
