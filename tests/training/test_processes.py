"""Several processes: equal to one with all their batches, and no error in one of them leaves another waiting."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from pliant.checks import PliantError
from pliant.family import Family
from pliant.techniques.elastic.width import Width
from pliant.training import Compute, sharded, train
from pliant.training.processes import Processes
from tests.training.toy import batch, batches, loss, mlp, same, state
from tests.training.worker import MAKERS, STEPS, plain

ROOT = Path(__file__).parents[2]


def _port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def launch(folder: Path, *what: str, count: int = 2) -> list[tuple[int, str, float]]:
    """Start ``count`` processes by the variables that torchrun sets; returns codes, complaints and when they ended."""
    shared = {"WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(_port())}
    command = [sys.executable, "-m", "tests.training.worker", str(folder), *what]
    started = []
    for rank in range(count):
        variables = os.environ | shared | {"RANK": str(rank), "OMP_NUM_THREADS": "1"}
        with (folder / f"{rank}.err").open("w") as stream:
            started.append(subprocess.Popen(command, cwd=ROOT, env=variables, stderr=stream))
    ended: dict[int, float] = {}
    try:
        deadline = time.monotonic() + 120
        while len(ended) < count and time.monotonic() < deadline:
            time.sleep(0.05)
            for rank, process in enumerate(started):
                if rank not in ended and process.poll() is not None:
                    ended[rank] = time.monotonic()
    finally:
        for process in started:
            if process.poll() is None:
                process.kill()
                process.wait()
    return [
        (process.returncode, (folder / f"{rank}.err").read_text(), ended.get(rank, float("inf")))
        for rank, process in enumerate(started)
    ]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("processes")


@pytest.fixture(scope="module")
def ends(folder: Path) -> list[tuple[int, str, float]]:
    return launch(folder, "equal", "errors")


@pytest.fixture(scope="module")
def well(folder: Path, ends: list[tuple[int, str, float]]) -> Path:
    assert (folder / "numbers-1.json").exists(), ends
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("name", MAKERS)
def test_two_processes_equal_one_with_twice_the_batch(name: str, well: Path) -> None:
    left, right = (load_file(well / f"{name}-{rank}.safetensors") for rank in (0, 1))
    assert same(left, right)
    make, data = MAKERS[name]
    data = batches if name == "iterable" else data

    def joined(start: int) -> Any:
        each = data(2 * start)
        for first in each:
            second = next(each)
            yield torch.cat([first[0], second[0]]), torch.cat([first[1], second[1]])

    for settings in ({"batches": joined}, {"batches": data, "compute": Compute(accumulate=2)}):
        one: Any = make(0)
        last = train(family=one, loss=loss, steps=STEPS, optimizer=plain(one), **settings)
        for key, value in state(one).items():
            assert torch.allclose(value, left[key], rtol=1e-6, atol=1e-6), key
        for rank in (0, 1):
            told = json.loads((well / f"{name}-{rank}.json").read_text())
            assert told == pytest.approx([*last.losses.values(), last.gradient_norm], rel=1e-5)


@pytest.mark.slow
def test_statistics_are_those_of_the_first_process_at_the_end(well: Path) -> None:
    left, right = (load_file(well / f"convnet-{rank}.safetensors") for rank in (0, 1))
    assert same(left, right)
    assert not torch.equal(left["norm.running_mean"], torch.zeros(16))


@pytest.mark.slow
def test_a_process_may_train_alone(well: Path) -> None:
    left, right = (load_file(well / f"alone-{rank}.safetensors") for rank in (0, 1))
    assert not same(left, right)


@pytest.mark.slow
def test_batches_are_drawn_alike_and_dropout_is_not(well: Path) -> None:
    left, right = (json.loads((well / f"numbers-{rank}.json").read_text()) for rank in (0, 1))
    assert left["batches"] == right["batches"]
    assert not set(left["own"]) & set(right["own"])
    for told in (left, right):
        assert told["batches"][:3] == told["batches"][3:6]  # the second run skips two and goes on from there
        assert told["own"][2] == told["own"][3]
        assert len(set(told["own"])) == len(set(told["batches"])) == 4


ERRORS = {
    "diverged": (
        r"TrainingDivergedError: process 1 of 2 stopped \(TrainingDivergedError: the loss of .*so this one, process 0",
        r"TrainingDivergedError: the loss of member .* is nan at step 3",
    ),
    "ended": (
        r"PliantError: process 1 of 2 stopped \(WrongShapeError: the batches ended after 4 of 5 steps",
        r"WrongShapeError: the batches ended after 4 of 5 steps",
    ),
    "callback": (
        r"ValueError: evaluated wrongly",
        r"PliantError: process 0 of 2 stopped \(ValueError: evaluated wrongly\)",
    ),
    "seeds": (r"PliantError: the processes do not train the same: seed is 0 in process 0, 1 in process 1",) * 2,
    "recipes": (r"PliantError: the processes have gone apart: process 0 is at step 0 with member",) * 2,
    "losses": (r"5", r"5"),
    "networks": (r"PliantError: the processes do not train the same: the space is ",) * 2,
    "disk": (r"PliantError: cannot write .*", r"PliantError: process 0 of 2 stopped \(PliantError: cannot write"),
    "fine": (r"5", r"5"),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", ERRORS)
@pytest.mark.parametrize("rank", [0, 1])
def test_an_error_in_one_ends_all(name: str, rank: int, well: Path) -> None:
    told = json.loads((well / f"errors-{rank}.json").read_text())
    assert re.match(ERRORS[name][rank], told[name], re.DOTALL), told[name]


@pytest.mark.slow
def test_a_killed_worker_ends_the_other_with_a_clear_error(ends: list[tuple[int, str, float]]) -> None:
    (code, text, ended), (killed, _, died) = ends
    assert killed == -9
    assert code == 1
    assert ended - died < 20
    last = text.strip().splitlines()[-1]
    assert "process 0 of 2 cannot reach another one any more: it was killed, crashed" in last
    assert "start all processes again with the same command: with folder= the run goes on from its last" in last


@pytest.fixture(scope="module")
def again(well: Path) -> Path:
    """What torchrun itself starts."""
    assert {path.name for path in (well / "killed").iterdir()} == {
        "checkpoint-00000002.safetensors",
        "checkpoint-00000004.safetensors",
    }
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--master-addr=127.0.0.1",
               f"--master-port={_port()}", "-m", "tests.training.worker", str(well), "resume", "extras"]  # fmt: skip
    done = subprocess.run(command, cwd=ROOT, check=False, timeout=120, capture_output=True, text=True,
                          env=os.environ | {"OMP_NUM_THREADS": "1"})  # fmt: skip
    assert done.returncode == 0, done.stderr
    return well


@pytest.mark.slow
def test_started_again_the_run_goes_on_bit_for_bit(again: Path) -> None:
    whole = load_file(again / "dropout-0.safetensors")
    for rank in (0, 1):
        assert same(load_file(again / f"resumed-{rank}.safetensors"), whole)
    assert not (again / "elsewhere").exists()


@pytest.mark.slow
def test_lightning_and_transformers_average_too(again: Path) -> None:
    named = [({"x": x}, y) for x, y in map(batch, range(2 * STEPS))]
    rates: dict[str, Any] = {"warmup": 0, "schedule": lambda done: 1.0}
    for name, data, decay, settings in (("lightning", batches, 0.05, {}), ("hf", named, 0.0, rates)):
        left, right = (load_file(again / f"{name}-{rank}.safetensors") for rank in (0, 1))
        assert same(left, right)
        one = mlp(dropout=0.0)
        if name == "hf":
            one = Family(one.model, (), [Width(multiple=4)], {"x": torch.randn(4, 8)})
        optimizer = torch.optim.AdamW(one.parameters(), lr=1e-3, weight_decay=decay)
        train(one, data, loss, steps=STEPS, optimizer=optimizer, compute=Compute(accumulate=2), **settings)
        for key, value in state(one).items():
            assert torch.allclose(value, left[key], rtol=1e-6, atol=1e-6), key


def test_alone_nothing_is_exchanged() -> None:
    alone = Processes()
    family = mlp()
    for parameter in family.parameters():
        parameter.grad = torch.ones_like(parameter)
    alone.average(list(family.parameters()))
    assert all(torch.equal(p.grad, torch.ones_like(p)) for p in family.parameters())
    assert alone.meet("here", 2.5) == 2.5
    assert alone.gathered("x") == ["x"]
    assert sharded(batches) is batches
    with alone.file(Path("here")) as path:
        assert path == Path("here")


def test_processes_that_cannot_be_reached(monkeypatch: pytest.MonkeyPatch) -> None:
    values = {"RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "no number"}
    for name, value in values.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(PliantError, match="WORLD_SIZE=2 says that there are other processes.*start with torchrun"):
        train(mlp(), batches, loss, steps=1)
    assert train(mlp(), batches, loss, steps=1, compute=Compute(processes=False)).step == 1
    left, right = sharded(batches), sharded([1, 2, 3, 4])
    assert callable(left)
    assert not callable(right)
    assert torch.equal(next(left(3))[0], next(batches(7))[0])
    assert list(right) == list(right) == [2, 4]
