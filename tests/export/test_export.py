"""Every format on several nets: numbers, batches, containers, files, errors."""

from __future__ import annotations

import errno
import importlib.util
import json
import os
import re
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from pliant import files
from pliant.checks import (
    CaptureError,
    MissingExtraError,
    PliantError,
    UnknownNameError,
    VerificationError,
    WrongShapeError,
)
from pliant.export import export
from pliant.export.verify import _relative
from pliant.measure import Bytes
from tests.export.nets import FixedBatch, Mlp, Nested, Tied, Variadic

SLOW_ONNX = pytest.param(".onnx", marks=pytest.mark.slow)
CASES: dict[str, tuple[type[nn.Module], tuple[Any, ...], dict[str, Any]]] = {
    "mlp": (Mlp, (torch.randn(3, 8),), {}),
    "one": (Mlp, (torch.randn(1, 8),), {}),
    "tied": (Tied, (torch.arange(10).view(2, 5),), {}),
    "variadic": (Variadic, (torch.randn(2, 8),), {}),
    "nested": (Nested, (torch.randn(2, 8),), {"shift": torch.randn(2, 8), "scale": torch.randn(2, 8)}),
}


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("suffix", [".pt2", SLOW_ONNX, ".safetensors"])
def test_round_trip(case: str, suffix: str, tmp_path: Path) -> None:
    make, args, kwargs = CASES[case]
    net = make().train()
    made = export(net, tmp_path / f"net{suffix}", args, kwargs)
    assert net.training
    assert made.max_error is not None
    assert made.max_error < 1e-5
    assert made.dynamic_batch, made.details
    batch = args[0].shape[0]
    assert made.details["checked_batches"] == list(dict.fromkeys([batch, batch + 1, 1]))
    assert made.bytes == made.path.stat().st_size
    assert made.latency is not None
    assert made.latency.details["runtime"] == ("onnxruntime" if suffix == ".onnx" else "torch")
    assert made.latency.details["batch"] == batch
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {f"net{suffix}"} | ({"net.json"} if suffix == ".safetensors" else set())


@pytest.mark.parametrize("suffix", [".pt2", SLOW_ONNX])
def test_a_fixed_batch_is_recorded_with_its_reason(suffix: str, tmp_path: Path) -> None:
    made = export(FixedBatch(), tmp_path / f"net{suffix}", (torch.randn(4, 8),), time=False)
    assert not made.dynamic_batch
    assert made.details["fixed_because"]
    assert made.details["checked_batches"] == [4]
    assert made.latency is None
    asked = export(Mlp(), tmp_path / f"mlp{suffix}", (torch.randn(4, 8),), dynamic_batch=False, time=False, check=False)
    assert not asked.dynamic_batch
    assert not asked.details["fixed_because"]
    assert asked.max_error is None


def test_tensors_by_free_keyword_fix_the_batch(tmp_path: Path) -> None:
    made = export(Variadic(), tmp_path / "net.pt2", (torch.randn(2, 8),), {"shift": torch.randn(2, 8)}, time=False)
    assert not made.dynamic_batch  # torch.export takes no dynamic shapes for them
    assert made.details["fixed_because"]
    assert made.max_error == 0


def test_containers_become_plain(tmp_path: Path) -> None:
    make, args, kwargs = CASES["nested"]
    export(make(), tmp_path / "net.pt2", args, kwargs, time=False)
    found = torch.export.load(tmp_path / "net.pt2").module()(*args, **kwargs)
    assert set(found) == {"logits", "parts"}
    assert isinstance(found["parts"], tuple)


def test_a_member_over_a_big_storage_is_saved_small(tmp_path: Path) -> None:
    shared, buffer = torch.randn(500, 500), torch.randn(100_000)
    net = nn.Linear(8, 4)
    net.weight = nn.Parameter(shared[:4, :8])
    net.register_buffer("extra", buffer[:4])
    for suffix in (".pt2", ".safetensors"):
        made = export(net, tmp_path / f"net{suffix}", (torch.randn(2, 8),), time=False)
        assert made.bytes < 30_000
    assert net.weight.untyped_storage().data_ptr() == shared.untyped_storage().data_ptr()


def test_safetensors_size_ties_and_card(tmp_path: Path) -> None:
    net = Tied()
    made = export(net, tmp_path / "net.safetensors", (torch.arange(10).view(2, 5),), time=False)
    assert made.bytes == Bytes().measure(net).value
    card = json.loads((tmp_path / "net.json").read_text())
    assert card["tied"] == {"head.weight": "embed.weight"}
    assert card["tensors"]["embed.weight"] == {"shape": [12, 8], "dtype": "float32"}
    assert card["inputs"] == [{"shape": [2, 5], "dtype": "int64"}]
    assert card["outputs"] == [{"shape": [2, 5, 12], "dtype": "float32"}]
    assert card["load"] == made.load_lines
    assert card["class"].endswith("nets.Tied")


def test_a_network_that_answers_otherwise_each_time_is_refused(tmp_path: Path) -> None:
    class Random(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = nn.Linear(8, 8)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.a(x) + torch.rand_like(x)

    (tmp_path / "net.pt2").write_text("what was there before")
    with pytest.raises(VerificationError, match="differs from the network"):
        export(Random(), tmp_path / "net.pt2", (torch.randn(2, 8),))
    assert (tmp_path / "net.pt2").read_text() == "what was there before"
    assert len(list(tmp_path.iterdir())) == 1


def test_what_cannot_be_captured(tmp_path: Path) -> None:
    class Branch(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x if x.sum().item() > 0 else -x

    class Opaque(nn.Module):
        def forward(self, x: torch.Tensor) -> object:
            return object()

    with pytest.raises(CaptureError, match=r"Branch.*Data-dependent"):
        export(Branch(), tmp_path / "net.pt2", (torch.randn(2, 8),))
    with pytest.raises(CaptureError, match="neither a tensor nor a container"):
        export(Opaque(), tmp_path / "net.pt2", (torch.randn(2, 8),))
    assert not list(tmp_path.iterdir())


def test_suffixes(tmp_path: Path) -> None:
    with pytest.raises(UnknownNameError, match=r"'\.onx'; did you mean '\.onnx'\?"):
        export(Mlp(), tmp_path / "net.onx", (torch.randn(2, 8),))
    with pytest.raises(UnknownNameError, match="export format named 'net'"):
        export(Mlp(), tmp_path / "net", (torch.randn(2, 8),))
    with pytest.raises(PliantError, match=r"write \(x,\)"):
        export(Mlp(), tmp_path / "net.pt2", torch.randn(2, 8))  # type: ignore[arg-type]


@pytest.mark.parametrize("absent", ["onnx", "onnxscript", "onnxruntime"])
def test_a_missing_extra(absent: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, absent, None)
    with pytest.raises(MissingExtraError, match=rf"{absent}.*pip install 'pliant\[onnx\]'"):
        export(Mlp(), tmp_path / "net.onnx", (torch.randn(2, 8),))
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "words"),
    [(errno.ENOSPC, "no space left"), (errno.EACCES, "choose a folder"), (errno.EIO, "cannot write")],
)
@pytest.mark.parametrize("where", ["write", "flush"])
def test_trouble_with_the_disk(
    number: int, words: str, where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def trouble(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(*((files, "_flush") if where == "flush" else (torch.export, "save")), trouble)
    (tmp_path / "net.pt2").write_text("what was there before")
    with pytest.raises(PliantError, match=words):
        export(Mlp(), tmp_path / "net.pt2", (torch.randn(2, 8),))
    assert [path.read_text() for path in tmp_path.iterdir()] == ["what was there before"]


def test_places_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "folder.safetensors").mkdir()
    for place, words in (("file/net.safetensors", "cannot write"), ("folder.safetensors", "is a folder")):
        with pytest.raises(PliantError, match=words):
            export(Mlp(), tmp_path / place, (torch.randn(2, 8),))
    made = export(Mlp(), tmp_path / "new" / "folders" / "net.safetensors", (torch.randn(2, 8),), time=False)
    assert made.path.exists()


def test_difference_is_relative_to_the_scale_of_the_output() -> None:
    big = torch.tensor([1000.0, 1.0])
    assert _relative(big, big + torch.tensor([0.0, 0.1])) == pytest.approx(1e-4, rel=1e-3)
    assert _relative(torch.tensor([-torch.inf, 2.0]), torch.tensor([-torch.inf, 2.0])) == 0
    assert _relative(torch.tensor([torch.inf, 2.0]), torch.tensor([1.0, 2.0])) == torch.inf
    assert _relative(torch.zeros(2), torch.full((2,), 1e-5)) == pytest.approx(1e-5)
    assert _relative(torch.tensor([1, 2]), torch.tensor([1, 3])) == torch.inf


@pytest.mark.slow
def test_exporting_leaves_the_users_warnings_and_logs_alone(tmp_path: Path) -> None:
    import logging

    levels = {name: logging.getLogger(name).level for name in ("torch.onnx", "onnxscript")}
    filters = list(warnings.filters)
    export(Mlp(), tmp_path / "net.onnx", (torch.randn(2, 8),), time=False)
    assert warnings.filters == filters
    assert {name: logging.getLogger(name).level for name in levels} == levels


class Passing(nn.Module):
    """Gives an input back beside its result."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> Any:
        return x, self.layer(x) + y


class Counting(nn.Module):
    def forward(self, x: torch.Tensor) -> Any:
        return x * 2, 3


@pytest.mark.slow
def test_onnx_of_what_gives_an_input_back_and_what_it_cannot_hold(tmp_path: Path) -> None:
    made = export(Passing(), tmp_path / "n.onnx", (torch.randn(3, 4), torch.randn(3, 4)), time=False)
    assert made.dynamic_batch
    assert made.max_error is not None
    assert made.max_error < 1e-5
    with pytest.raises(CaptureError, match="gives 3 beside its tensors.*export to .pt2"):
        export(Counting(), tmp_path / "c.onnx", (torch.randn(3, 4),))
    with pytest.raises(CaptureError, match=r"ONNX Runtime cannot run the network.*net\.float\(\)"):
        export(nn.Linear(4, 4).bfloat16(), tmp_path / "b.onnx", (torch.randn(3, 4).bfloat16(),))
    assert [each.name for each in tmp_path.iterdir()] == ["n.onnx"]


def test_a_network_and_arguments_that_do_not_fit(tmp_path: Path) -> None:
    path, net = tmp_path / "n.pt2", nn.Linear(4, 4)
    with pytest.raises(WrongShapeError, match="does not run on the example arguments: RuntimeError: mat1 and mat2"):
        export(net, path, (torch.randn(3, 5),))
    with pytest.raises(WrongShapeError, match="a batch of 0"):
        export(net, path, (torch.randn(0, 4),))
    with pytest.raises(WrongShapeError, match=r"got function.*family\.extract"):
        export(lambda x: x, path, (torch.randn(3, 4),))  # type: ignore[arg-type]


def test_the_card_replaces_no_file_of_another_kind(tmp_path: Path) -> None:
    net, args = nn.Linear(4, 4), (torch.randn(3, 4),)
    (tmp_path / "n.json").write_text('{"mine": 1}')
    with pytest.raises(PliantError, match="n.json is another file: nothing was written"):
        export(net, tmp_path / "n.safetensors", args, time=False)
    assert [each.name for each in tmp_path.iterdir()] == ["n.json"]
    for _ in range(2):  # its own it does
        export(net, tmp_path / "m.safetensors", args, time=False)


def test_load_lines_name_the_file_of_a_class_that_is_not_imported_by_its_name(tmp_path: Path) -> None:
    (tmp_path / "my net.py").write_text("import torch\n\n\nclass Net(torch.nn.Linear):\n    pass\n")
    spec = importlib.util.spec_from_file_location("hidden_name_17", tmp_path / "my net.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    try:
        spec.loader.exec_module(module)
        made = export(module.Net(4, 4), tmp_path / "n.safetensors", (torch.randn(3, 4),), time=False)
    finally:
        del sys.modules[spec.name]
    assert "# Net of my net.py, built with the shapes in the card" in made.load_lines


def test_weights_of_a_network_with_a_captured_part_are_written_without_a_word(tmp_path: Path) -> None:
    """Such a part holds torch's tree structures, and torch warns of its own class where they are copied."""
    net = Mlp()
    net.structure = torch.utils._pytree.tree_structure(0)  # type: ignore[assignment]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        export(net, tmp_path / "net.safetensors", (torch.randn(3, 8),), check=False, time=False)


def test_an_artefact_tells_what_was_checked(tmp_path: Path) -> None:
    net, x = nn.Linear(4, 2).eval(), (torch.randn(2, 4),)
    said = str(export(net, tmp_path / "net.pt2", x))
    facts = r"[\d\u202f]+ bytes; equal to the network; \S+ ± \S+ ms in torch, batch 2, threads 1; any batch size"
    assert re.fullmatch(rf".*net\.pt2: {facts}", said)
    said = str(export(net, tmp_path / "net.safetensors", x, time=False))
    assert "ms" not in said
    assert said.endswith("equal to the network; any batch size")
    with pytest.raises(WrongShapeError, match="give keyword arguments as example_kwargs"):
        export(net, tmp_path / "net.pt2", {"input": x[0]})  # type: ignore[arg-type]
