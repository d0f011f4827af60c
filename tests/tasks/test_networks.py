"""Networks by name: built with inputs that they run on, or one message."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from pliant.checks import MissingExtraError, PliantError, UnknownNameError, WrongShapeError
from pliant.tasks import libraries
from pliant.tasks.networks import load_network, read_inputs

LLAMA = {
    "hidden_size": 16, "intermediate_size": 24, "num_attention_heads": 4, "num_key_value_heads": 2,
    "num_hidden_layers": 1, "vocab_size": 50, "max_position_embeddings": 32,
}  # fmt: skip


def test_tasks_are_networks_too() -> None:
    network = load_network("digits:convnet")
    assert isinstance(network.model(*network.args), torch.Tensor)
    with pytest.raises(UnknownNameError, match="did you mean 'digits'"):
        load_network("digit")
    with pytest.raises(UnknownNameError, match="no source of networks named 'huggingface'"):
        load_network("huggingface:BertModel")


def test_inputs_from_json(tmp_path: Path) -> None:
    file = tmp_path / "inputs.json"
    rows = {"a": {"shape": [2, 3]}, "b": {"shape": [2, 4], "dtype": "int64", "high": 9}, "c": [[1, 2]], "d": False}
    rows["e"] = {"shape": [2], "dtype": "bool"}
    file.write_text(json.dumps(rows))
    found = read_inputs(file)
    assert (found["a"].shape, found["a"].dtype) == ((2, 3), torch.float32)
    assert (found["b"].shape, found["b"].dtype) == ((2, 4), torch.int64)
    assert int(found["b"].max()) < 9
    assert found["c"].tolist() == [[1, 2]]
    assert found["d"] is False
    assert found["e"].dtype == torch.bool
    for text in (
        "[]",
        "{",
        '{"a": {"shape": "x"}}',
        '{"a": {"dtype": "int64"}}',
        '{"a": {"shape": [2], "dtype": "no"}}',
    ):
        file.write_text(text)
        with pytest.raises(WrongShapeError, match="write JSON such as"):
            read_inputs(file)


def test_libraries_that_are_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(libraries, "find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match="pip install torchvision"):
        load_network("torchvision:resnet18")
    with pytest.raises(MissingExtraError, match="pip install timm"):
        load_network("timm:resnet18")
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'pliant\[hf\]'"):
        load_network("hf:BertModel")


@pytest.mark.slow
def test_torchvision_and_timm() -> None:
    network = load_network("torchvision:inception_v3")
    assert network.args[0].shape == (2, 3, 299, 299)
    assert load_network("timm:test_vit").args[0].shape == (2, 3, 160, 160)
    for name, near in (("torchvision:resnet5", "resnet50"), ("timm:tes_vit", "test_vit")):
        with pytest.raises(UnknownNameError, match=f"did you mean '{near}'"):
            load_network(name)
    with pytest.raises(PliantError, match="analyse torchvision:resnet18 instead"):
        load_network("torchvision:quantized_resnet18")


@pytest.mark.slow
def test_torchvision_in_a_fresh_process() -> None:
    """Where its compiled part does not fit this torch, its import fails unless two operators are declared."""
    code = "from pliant.tasks.networks import load_network; print(load_network('torchvision:resnet18').args[0].shape)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert "[2, 3, 224, 224]" in done.stdout


@pytest.mark.slow
def test_transformers(tmp_path: Path) -> None:
    file = tmp_path / "config.json"
    file.write_text(json.dumps(LLAMA))
    for text in (f"hf:LlamaForCausalLM:{file}", f"hf:LlamaForCausalLM:{tmp_path}"):
        network = load_network(text)
        with torch.no_grad():
            assert network.model(**network.kwargs).logits.shape == (2, 16, 50)
    with pytest.raises(PliantError, match="needs a config.json with a model_type"):
        load_network(f"hf:AutoModelForCausalLM:{file}")
    file.write_text(json.dumps({"model_type": "llama", **LLAMA}))
    assert type(load_network(f"hf:AutoModelForCausalLM:{file}").model).__name__ == "LlamaForCausalLM"
    with pytest.raises(UnknownNameError, match="did you mean 'LlamaForCausalLM'"):
        load_network("hf:LlamaForCausaLM")
    with pytest.raises(PliantError, match="cannot be read as a config.json"):
        load_network(f"hf:LlamaForCausalLM:{tmp_path / 'none.json'}")
    file.write_text(json.dumps({**LLAMA, "num_attention_heads": 0}))
    with pytest.raises(PliantError, match="cannot be built"):
        load_network(f"hf:LlamaForCausalLM:{file}")
