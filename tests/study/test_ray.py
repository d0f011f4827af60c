"""Workers on the machines of a Ray cluster: two nodes on this one."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from torch import nn

from pliant.checks import MissingExtraError, PliantError
from pliant.study import RayTasks, Trial, search
from pliant.techniques.search.nsga2 import Nsga2
from tests.study.toy import Toy, cost, error, objectives

ROOT = Path(__file__).parents[2]
SMALL = Nsga2(population=8)


def test_a_cluster_that_is_not_there_is_said_within_seconds() -> None:
    pytest.importorskip("ray")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    start = time.monotonic()
    for address in (f"127.0.0.1:{port}", f"ray://127.0.0.1:{port}"):
        with pytest.raises(PliantError, match=f"no Ray cluster at {address}.*ray start --head"):
            search(Toy(), objectives(), 5, workers=RayTasks(address))
    with pytest.raises(PliantError, match="no address of a Ray cluster"):
        search(Toy(), objectives(), 5, workers=RayTasks("nowhere"))
    assert time.monotonic() - start < 10


def test_without_ray_the_install_line_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'pliant\[ray\]'"):
        search(Toy(), objectives(), 5, workers=RayTasks())


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    patch = pytest.MonkeyPatch()
    patch.setenv("RAY_worker_niceness", "0")  # or tests wait for everything else on the machine
    patch.setenv("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    made.add_node(num_cpus=1)
    yield made
    made.shutdown()
    patch.undo()


def node() -> str:
    import ray

    return str(ray.get_runtime_context().get_node_id())


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_both_nodes_measure_the_same_as_one_process(cluster: Any, tmp_path: Path) -> None:
    def noted(member: nn.Module) -> float:
        (tmp_path / f"{node()}-{cost(member)}-{error(member)}").touch()
        time.sleep(0.2)
        return error(member)

    crew = RayTasks(cluster.address)
    study = search(Toy(), objectives(noted), 24, workers=crew, searcher=SMALL)
    assert len({trial.config for trial in study.trials}) == 24
    alone = Toy()
    assert all(trial.values["error"] == error(alone.ready(trial.config)) for trial in study.trials)
    counts = [path.name.partition("-")[0] for path in tmp_path.iterdir()]
    assert len(set(counts)) == 2, "one node did everything"
    with pytest.raises(PliantError, match="wants 64 CPUs, but the whole Ray cluster has 2"):
        search(Toy(), objectives(), 5, workers=RayTasks(cluster.address, cpus=64))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_processes_and_nodes_that_die(cluster: Any, tmp_path: Path) -> None:
    third = cluster.add_node(num_cpus=1)
    cluster.wait_for_nodes()

    def deadly(member: nn.Module) -> float:
        mark = tmp_path / f"{cost(member)}.killed"
        few = len(list(tmp_path.glob("*.killed"))) < 2  # each costs the start of a process
        if cost(member) > 70 and few and not mark.exists():
            mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(0.2)
        return error(member)

    gone = False

    def remove(trial: Trial) -> None:
        nonlocal gone
        if trial.number == 8 and not gone:
            gone = True
            cluster.remove_node(third, allow_graceful=False)

    crew = RayTasks(cluster.address)
    path = tmp_path / "s.db"
    study = search(Toy(), objectives(deadly), 20, workers=crew, searcher=SMALL, storage=path, on_trial=remove)
    assert gone
    assert list(tmp_path.glob("*.killed"))
    assert len({trial.config for trial in study.trials}) == 20
    assert all(trial.state == "complete" for trial in study.trials)
    assert [row.state.name for row in study.optuna.get_trials()] == ["COMPLETE"] * 20


@pytest.mark.slow
def test_a_cluster_of_its_own_from_a_script_without_a_guard(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "from pliant.study import RayTasks, search\n"
        "from pliant.measure import Metric\n"
        "from tests.study.toy import Toy, error\n"
        "scale = 2\n"
        "def doubled(member):\n"
        "    return scale * error(member)\n"
        "study = search(Toy(), [Metric('error', doubled)], 4, workers=RayTasks(count=1))\n"
        "assert [t.values['error'] for t in study.trials] == [2 * error(Toy().ready(t.config)) for t in study.trials]\n"
    )
    done = subprocess.run([sys.executable, script], cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, check=False)
    assert done.returncode == 0
