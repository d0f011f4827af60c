"""Checkpoints: whole or not there, and one clear error for whatever else is found."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from pliant.checks import CorruptFileError, PliantError
from pliant.training import train
from pliant.training.checkpoint import latest_checkpoint, load_checkpoint, load_held, save_checkpoint, save_held
from tests.training.toy import Mlp, batches, loss, mlp, same, state

ROOT = Path(__file__).parents[2]


def trained(kind: Any = torch.optim.AdamW, **settings: Any) -> tuple[torch.nn.Module, torch.optim.Optimizer]:
    net = Mlp()
    optimizer = kind(net.parameters(), lr=0.01, **settings)
    net(torch.randn(4, 8)).square().sum().backward()
    optimizer.step()
    return net, optimizer


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        (torch.optim.AdamW, {}),
        (torch.optim.AdamW, {"amsgrad": True}),
        (torch.optim.SGD, {}),
        (torch.optim.SGD, {"momentum": 0.9}),
        (torch.optim.RMSprop, {}),
    ],
)
def test_round_trip(kind: Any, settings: dict[str, Any], tmp_path: Path) -> None:
    net, optimizer = trained(kind, **settings)
    random_state = torch.get_rng_state()
    save_checkpoint(tmp_path, 7, net, optimizer, {"seed": 3, "word": "ü"})
    other, rest = trained(kind, **settings)
    torch.manual_seed(5)
    header = load_checkpoint(tmp_path / "checkpoint-00000007.safetensors", other, rest)
    assert (header["step"], header["seed"], header["word"]) == (7, 3, "ü")
    assert all(torch.equal(value, other.state_dict()[name]) for name, value in net.state_dict().items())
    assert torch.equal(torch.get_rng_state(), random_state)
    left, right = optimizer.state_dict(), rest.state_dict()
    assert left["state"].keys() == right["state"].keys()
    for index, values in left["state"].items():
        for key, value in values.items():
            assert torch.equal(value, right["state"][index][key]) if torch.is_tensor(value) else value is None
    for model, each in ((net.eval(), optimizer), (other.eval(), rest)):
        each.zero_grad()
        model(torch.ones(4, 8)).square().sum().backward()
        each.step()
    assert all(torch.equal(value, other.state_dict()[name]) for name, value in net.state_dict().items())


def test_the_two_newest_are_kept(tmp_path: Path) -> None:
    net, optimizer = trained()
    assert latest_checkpoint(tmp_path / "nothing") is None
    (tmp_path / ".checkpoint-00000001.77.tmp.safetensors").write_bytes(b"left by a kill")
    for step in (9, 10, 11, 100):
        save_checkpoint(tmp_path, step, net, optimizer, {})
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["checkpoint-00000011.safetensors", "checkpoint-00000100.safetensors"]
    assert latest_checkpoint(tmp_path) == tmp_path / names[1]


@pytest.mark.slow
def test_a_kill_while_writing_leaves_the_older_one(tmp_path: Path) -> None:
    code = f"""
import os, signal
from pathlib import Path
import safetensors.torch as st
from pliant.training import train
from tests.training.toy import batches, loss, mlp
real, calls = st.save_file, []
def dies(tensors, path, metadata):
    calls.append(path)
    if len(calls) == 2:
        Path(path).write_bytes(b"half of a file")
        os.kill(os.getpid(), signal.SIGKILL)
    real(tensors, path, metadata)
st.save_file = dies
train(mlp(), batches, loss, steps=6, folder={str(tmp_path)!r}, save_every=2)
"""
    process = subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False, timeout=120)
    assert process.returncode == -signal.SIGKILL
    path = latest_checkpoint(tmp_path)
    assert path is not None
    assert path.name == "checkpoint-00000002.safetensors"
    resumed, whole = mlp(seed=8), mlp()
    train(resumed, batches, loss, steps=6, folder=tmp_path, save_every=2)
    train(whole, batches, loss, steps=6)
    assert same(state(resumed), state(whole))
    assert not list(tmp_path.glob(".*"))


def _rewrite(path: Path, header: Callable[[dict[str, Any]], object], drop: str = "") -> None:
    with safe_open(path, "pt") as file:
        stored = json.loads(file.metadata()["pliant"])
        tensors = {name: file.get_tensor(name) for name in file.keys() if not (drop and name.startswith(drop))}  # noqa: SIM118
    header(stored)
    save_file(tensors, path, {"pliant": json.dumps(stored)})


def _turn_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-9] ^= 1  # the last bytes are those of tensors
    path.write_bytes(content)


DAMAGE: dict[str, Callable[[Path], object]] = {
    "half": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "empty": lambda path: path.write_bytes(b""),
    "other bytes": lambda path: path.write_bytes(os.urandom(3000)),
    "no header": lambda path: save_file({"x": torch.zeros(2)}, path),
    "no step": lambda path: _rewrite(path, lambda header: header.pop("step")),
    "a step that is none": lambda path: _rewrite(path, lambda header: header.update(step="many")),
    "no optimizer": lambda path: _rewrite(path, lambda header: header.pop("optimizer")),
    "no random state": lambda path: _rewrite(path, lambda header: None, drop="random/"),
    "a bit turned over": _turn_a_bit,
    "a weight less": lambda path: _rewrite(path, lambda header: None, drop="model/fc1.weight"),
}


@pytest.mark.slow
@pytest.mark.parametrize("damage", DAMAGE)
def test_damage_gets_one_clear_error(damage: str, tmp_path: Path) -> None:
    train(mlp(), batches, loss, steps=2, folder=tmp_path, save_every=1)
    newest = tmp_path / "checkpoint-00000002.safetensors"
    DAMAGE[damage](newest)
    with pytest.raises(
        CorruptFileError, match=r"checkpoint-00000002.*remove this file to go on from the one before it"
    ):
        train(mlp(), batches, loss, steps=4, folder=tmp_path)
    newest.unlink()  # as the message says
    resumed, whole = mlp(), mlp()
    train(resumed, batches, loss, steps=4, folder=tmp_path)
    train(whole, batches, loss, steps=4)
    assert same(state(resumed), state(whole))


def test_a_checkpoint_of_another_model(tmp_path: Path) -> None:
    net, optimizer = trained()
    path = save_checkpoint(tmp_path, 1, net, optimizer, {})
    other = torch.nn.Linear(3, 2)
    with pytest.raises(CorruptFileError, match=r"not of this network: weight is missing in it and of shape \(2, 3\)"):
        load_checkpoint(path, other, torch.optim.AdamW(other.parameters()))


def test_a_full_disk_is_said_and_the_older_one_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train(mlp(), batches, loss, steps=1, folder=tmp_path)

    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("safetensors.torch.save_file", full)
    with pytest.raises(PliantError, match=r"[Nn]o space left on"):
        train(mlp(), batches, loss, steps=2, folder=tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-00000001.safetensors"]


def test_what_a_trainers_checkpoint_holds_is_whole_or_refused(tmp_path: Path) -> None:
    held = {"count": 3, "teacher": {"weight": torch.arange(6.0).view(2, 3)}}
    path = save_held(tmp_path / "held.safetensors", held)
    found = load_held(path)
    assert found["count"] == 3
    assert torch.equal(found["teacher"]["weight"], held["teacher"]["weight"])  # type: ignore[index]
    whole = path.read_bytes()
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))  # one bit of the last number
    with pytest.raises(CorruptFileError, match="not those that were written.*another checkpoint"):
        load_held(path)
    path.write_bytes(whole[:-5])
    with pytest.raises(CorruptFileError, match="another checkpoint"):
        load_held(path)
    save_file({"weight": torch.ones(2)}, path)  # of somebody else
    with pytest.raises(CorruptFileError, match="another checkpoint"):
        load_held(path)
