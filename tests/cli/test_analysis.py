"""What `pliant analyze` shows, and what it says when a network cannot be analysed."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
import torch
from rich.console import Console
from torch import nn
from typer.testing import CliRunner

from pliant.cli.analysis import show
from pliant.cli.main import app
from pliant.graph import analyze
from pliant.report.network import picture

TASK = """
import torch
from torch import nn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.backbone = nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 4))
        self.head = nn.Linear(4, 2)

    def forward(self, x):
        h = self.backbone(x)
        if h.sum() > 0:  # the user's line
            h = h * 2
        return self.head(h)


def model(): return Net()
def example_args(): return (torch.randn(3, 5),)
def batches(seed): yield torch.randn(3, 5), torch.zeros(3)
def loss(outputs, targets): return outputs.mean()
def evaluate(model, split): return {"error": 1.0}
"""


def shown(net: nn.Module, width: int, title: str = "net") -> str:
    out = io.StringIO()
    show(picture(net, analyze(net, (torch.randn(2, 5),)), title), Console(file=out, width=width))
    return out.getvalue()


@pytest.mark.parametrize("width", [80, 120])
def test_the_picture_fits_the_terminal(width: int) -> None:
    layers: list[nn.Module] = [nn.Linear(5, 32)]
    for _ in range(6):
        layers += [nn.Linear(32, 32), nn.LayerNorm(32), nn.ReLU()]
    text = shown(nn.Sequential(*layers, nn.Linear(32, 4)), width, "a[/red] name")
    assert max(map(len, text.splitlines())) <= width
    for expected in (
        "a[/red] name: 7.04 k parameters",
        "7 axes bend, 0 blocks may be left out.",
        "of the parameters are left.",
        "Linear",
        "width 32",
        "7 axes: what must change together",
        "0.width: 32 units",
        "kept as they are, and why",
        "a size of the network's output (1)",
        "19.weight[0] (4)",
        "capture",
    ):
        assert expected in text, expected


def test_a_network_that_does_not_bend() -> None:
    text = shown(nn.ReLU(), 80)
    assert "Nothing bends; the list below says why." in text
    assert "what must change together" not in text


@pytest.mark.slow
def test_a_file_whose_network_cannot_be_captured(tmp_path: Path) -> None:
    file, page = tmp_path / "task.py", tmp_path / "page.html"
    file.write_text(TASK)
    result = CliRunner().invoke(app, ["analyze", str(file)])
    assert result.exit_code == 2
    assert "Traceback" not in result.output
    assert f"{file}, line 14: if h.sum() > 0:  # the user's line" in result.output
    assert "only='backbone' works" in result.output
    result = CliRunner().invoke(app, ["analyze", str(file), "--only", "backbone", "--html", str(page)])
    assert result.exit_code == 0, result.output
    assert "only backbone was analysed" in result.output
    assert "backbone.width: 8 units" in result.output
    assert "backbone.width" in page.read_text()
    result = CliRunner().invoke(app, ["analyze", str(file), "--only", "backbon"])
    assert "did you mean 'backbone'" in result.output


def test_inputs_from_a_file(tmp_path: Path) -> None:
    file, inputs = tmp_path / "task.py", tmp_path / "inputs.json"
    file.write_text(TASK.replace("if h.sum() > 0:  # the user's line", "if x.dim() == 3:"))
    inputs.write_text(json.dumps({"x": {"shape": [4, 5]}}))
    result = CliRunner().invoke(app, ["analyze", str(file), "--inputs", str(inputs)])
    assert result.exit_code == 0, result.output
    assert "2 axes bend" in result.output
    inputs.write_text(json.dumps({"x": {"shape": [4, 6]}}))
    result = CliRunner().invoke(app, ["analyze", str(file), "--inputs", str(inputs)])
    assert result.exit_code == 2
    assert "does not run on the example arguments (x=(4, 6))" in result.output
