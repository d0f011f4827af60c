"""Extracted members of a class that is built from a configuration: saved and loaded by the class itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from pliant.graph import Analysis, analyze
from pliant.graph.configuration import NOTE, settle_configuration
from pliant.graph.realise import difference, outputs, sliced_copy
from pliant.graph.slicing import Slicing
from tests.graph import support
from tests.graph.nets import ZOO


def _case(name: str) -> tuple[Any, dict[str, Any], Analysis]:
    torch.manual_seed(3)
    model, args, kwargs = next(entry for entry in ZOO if entry.name == name).make()
    assert not args
    support.randomise(model)
    return model, kwargs, analyze(model, (), kwargs)


def _half(analysis: Analysis, *words: str) -> dict[str, int]:
    """Halve the axes whose name ends in one of ``words``; ``stream`` and the like are a whole name."""
    return {axis.name: axis.size // 2 for axis in analysis.axes if axis.name.endswith(words) and axis.size > 1}


CASES = [
    ("llama", ("mlp.width",), True, {"intermediate_size": 32, "num_hidden_layers": 1}),
    ("llama", ("mlp.width", ".heads", "stream"), False, {"num_key_value_heads": 1, "hidden_size": 24}),
    ("bert", ("layer.0.width", "layer.1.width"), True, {"num_hidden_layers": 1}),
    ("bert", (".width", ".heads", "stream"), False, {"hidden_size": 16, "num_attention_heads": 2}),
    ("gpt2", ("mlp.width",), True, {"n_layer": 1, "n_inner": 64}),
    ("gpt2", (".width", ".heads", "stream"), False, {"n_embd": 16, "n_head": 2}),
    ("t5", ("DenseReluDense.width",), False, {"d_ff": 32}),
    ("hf vit", ("mlp.width", "intermediate.dense.width", "heads", "stream"), True, {"num_hidden_layers": 1}),
]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "words", "drop", "fields"), CASES)
def test_a_round_trip_through_the_class(
    name: str, words: tuple[str, ...], drop: bool, fields: dict[str, int], tmp_path: Path
) -> None:
    model, kwargs, analysis = _case(name)
    keep = _half(analysis, *words)
    assert keep
    dropped = [analysis.blocks[0].name] if drop else []
    slicing = Slicing(analysis, keep, dropped)
    net: Any = sliced_copy(model, slicing, "module")
    want, before = outputs(net, (), kwargs), model.config.to_dict()
    assert settle_configuration(net, model, slicing) == ""
    assert difference(outputs(net, (), kwargs), want) == 0
    assert {field: getattr(net.config, field) for field in fields} == fields
    assert model.config.to_dict() == before
    net.save_pretrained(tmp_path)
    back = type(model).from_pretrained(tmp_path).eval()
    assert difference(outputs(back, (), kwargs), want) <= 1e-6
    assert sum(p.numel() for p in back.parameters()) == sum(p.numel() for p in net.parameters())


@pytest.mark.slow
def test_what_no_configuration_says_is_noted() -> None:
    model, _, analysis = _case("llama")
    first = next(axis for axis in analysis.axes if axis.name.endswith("mlp.width"))
    slicing = Slicing(analysis, {first.name: 8})
    net: Any = sliced_copy(model, slicing, "module")
    note = settle_configuration(net, model, slicing)
    assert "intermediate_size would be 8 in one place and 64 in another" in note
    assert net.config.to_dict()[NOTE] == note
    assert net.model.config is net.config
    assert not hasattr(model.config, NOTE)
    assert net.config.intermediate_size == 64
    # A table that the class computes anew from the width of a head: other pairs of it were kept.
    width = next(axis for axis in analysis.axes if axis.kind == "head_width")
    slicing = Slicing(analysis, {width.name: list(range(width.size // 2, width.size))})
    net = sliced_copy(model, slicing, "module")
    assert settle_configuration(net, model, slicing)


def test_models_without_a_configuration_are_left_alone() -> None:
    model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Linear(8, 2))
    analysis = analyze(model, (torch.randn(2, 4),))
    slicing = Slicing(analysis, {analysis.axes[0].name: 3})
    net = sliced_copy(model, slicing, "module")
    assert settle_configuration(net, model, slicing) == ""


@pytest.mark.slow
def test_sizes_that_the_forward_reads_from_the_configuration_stay_patched() -> None:
    from tests.helpers import torchvision_shim  # noqa: F401  (must come first)

    import transformers  # isort: skip

    torch.manual_seed(3)
    sizes: dict[str, Any] = {
        "hidden_sizes": [8, 12, 16, 20],
        "depths": [1, 1, 1, 1],
        "num_attention_heads": [1, 2, 2, 2],
    }
    config = transformers.PvtV2Config(image_size=64, **sizes)
    model: Any = support.randomise(transformers.PvtV2ForImageClassification(config))
    kwargs = {"pixel_values": torch.randn(2, 3, 64, 64)}
    analysis = analyze(model, (), kwargs)
    slicing = Slicing(analysis, _half(analysis, "stream"), [analysis.blocks[0].name])
    net: Any = sliced_copy(model, slicing, "module")
    want = outputs(net, (), kwargs)
    settle_configuration(net, model, slicing)  # whether or not the class could build it
    assert difference(outputs(net, (), kwargs), want) == 0
    assert model.config.hidden_sizes == sizes["hidden_sizes"]
