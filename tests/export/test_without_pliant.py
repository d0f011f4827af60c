"""Each artefact in a process where importing Pliant raises."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from pliant.export import export
from pliant.measure.capture import plain
from tests.export.nets import Mlp, Nested, Tied
from tests.helpers.nursery import Nursery

BLOCK = """
import sys
assert not [name for name in sys.modules if name.split(".")[0] == "pliant"]

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "pliant":
            raise ImportError("pliant is not to be had here")

sys.meta_path.insert(0, Blocker())
try:
    import pliant
except ImportError:
    pass
else:
    raise SystemExit("pliant could be imported")

import json, torch
from torch.utils import _pytree as pytree
from safetensors.torch import load_file
inputs = load_file("inputs.safetensors")
"""
RUN = {
    ".pt2": "outputs = net(inputs['0'], **{key: value for key, value in inputs.items() if key != '0'})\n",
    ".safetensors": "outputs = net(inputs['0'])\n",
    ".onnx": (
        "names = [entry.name for entry in session.get_inputs()]\n"
        "arrays = [inputs.get(name, inputs['0']).numpy() for name in names]\n"
        "outputs = [torch.from_numpy(each) for each in session.run(None, dict(zip(names, arrays)))]\n"
    ),
}
SAVE = """
import safetensors.torch
leaves = [leaf.contiguous() for leaf in pytree.tree_leaves(outputs) if leaf is not None]
safetensors.torch.save_file({str(i): leaf.clone() for i, leaf in enumerate(leaves)}, "outputs.safetensors")
"""


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nursery]:
    """Processes with what the artefacts need."""
    modules = ("torch", "torch._export.serde.serialize", "safetensors.torch", "onnxruntime")
    with Nursery(*modules, cwd=tmp_path_factory.mktemp("bare")) as made:
        yield made


@pytest.mark.slow
@pytest.mark.parametrize("suffix", RUN)
@pytest.mark.parametrize("make", [Mlp, Tied, Nested])
def test_artefact_alone(make: type[nn.Module], suffix: str, bare: Nursery, tmp_path: Path) -> None:
    if make is Nested and suffix == ".safetensors":
        pytest.skip("takes keywords: the same file format as the others")
    from safetensors.torch import load_file, save_file

    net = make().eval()
    args: tuple[Any, ...] = (torch.randint(12, (5, 6)),) if make is Tied else (torch.randn(5, 8),)
    kwargs = {"shift": torch.randn(5, 8), "scale": torch.randn(5, 8)} if make is Nested else {}
    example = tuple(arg[:2] for arg in args), {key: value[:2] for key, value in kwargs.items()}
    made = export(net, tmp_path / f"net{suffix}", *example, time=False)
    save_file({"0": args[0], **kwargs}, tmp_path / "inputs.safetensors")
    lines = made.load_lines
    if suffix == ".safetensors":
        source = (Path(__file__).parent / "nets.py").read_text()
        (tmp_path / "nets.py").write_text(source)
        lines = f"from nets import {make.__name__}\n" + lines.replace("(...)", "()")
    script = BLOCK + lines + "with torch.no_grad():\n    " + RUN[suffix].strip().replace("\n", "\n    ") + SAVE
    done = bare.start(script, cwd=tmp_path, log=tmp_path / "log")
    assert done.wait(120)
    assert done.code == 0, done.remarks
    with torch.no_grad():
        expected = [leaf for leaf in torch.utils._pytree.tree_leaves(plain(net(*args, **kwargs))) if leaf is not None]
    found = load_file(tmp_path / "outputs.safetensors")
    assert len(found) == len(expected)
    for index, leaf in enumerate(expected):
        torch.testing.assert_close(found[str(index)], leaf, rtol=1e-4, atol=1e-4)
    json.dumps(dict(made.details))
