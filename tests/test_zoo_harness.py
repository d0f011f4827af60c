"""The zoo harness tells right from wrong; the zoo itself is run by `python -m benchmarks zoo`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from benchmarks.zoo import results, runner
from benchmarks.zoo.entries import Net
from benchmarks.zoo.measure import measure
from torch import Tensor, nn

from pliant.graph.rules import RULES
from tests.graph.nets import Branches
from tests.graph.support import Tiny


def _net(middle: Callable[[Tensor], Tensor], width: int = 8) -> Net:
    def make() -> Any:
        net = Tiny(lambda s, x: s.b(middle(s.a(x).relu())), a=nn.Linear(5, width), b=nn.Linear(width, 2))
        return net, (torch.randn(3, 5),), {}

    return Net("own/net", make)


def _measure(net: Net) -> dict[str, Any]:
    kept: list[dict[str, Any]] = []
    record = measure(net, lambda row: kept.append(dict(row)))
    assert kept[-1] == record
    return record


@pytest.mark.slow
def test_a_network_that_bends_is_ok_with_its_shares() -> None:
    record = _measure(Net("own/branches", lambda: (Branches(), (torch.randn(2, 3, 12, 12),), {})))
    assert record["outcome"] == "ok", record.get("error")
    assert record["form"] == "module"
    assert record["kinds"] == {"width": record["axes"]}
    assert 0.1 < record["left"] < 0.3
    assert 0.1 < record["left_macs"] < 0.3
    assert "moved" in record["trained"]
    assert record["fixed"].keys() == {"kernel", "input", "output"}
    assert record["checks"]["permutation"] < 1e-5
    assert record["masked_axes"] > 0


@pytest.mark.parametrize(
    ("name", "middle"),
    [
        ("flip", lambda h: h * h.flip(-1)),
        ("cumsum", lambda h: h.cumsum(-1)),
    ],
)
def test_a_wrong_rule_shows_as_a_wrong_network(
    name: str, middle: Callable[[Tensor], Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert _measure(_net(middle))["outcome"] == "nothing bends"
    monkeypatch.setitem(RULES, name, RULES["pointwise"])
    record = _measure(_net(middle))
    assert record["outcome"] == "wrong"
    assert "permutation" in record["error"]
    assert record["first"]["checks"]  # it was looked at again in double precision


def test_what_fails_is_told_by_its_stage() -> None:
    def broken() -> Any:
        raise RuntimeError("no such weights")

    assert _measure(Net("own/broken", broken))["outcome"] == "not made"

    def branch(h: Tensor) -> Tensor:
        return h * 2 if float(h.sum()) > 0 else h

    record = _measure(_net(branch))
    assert record["outcome"] == "no capture"
    assert "CaptureError" in record["error"]


def test_figures_count_the_networks(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from pliant.files import write_json

    monkeypatch.setattr(runner, "FOLDER", tmp_path)
    good: dict[str, Any] = {"outcome": "ok", "form": "module", "attention": True}
    good |= {"kinds": {"heads": 1, "head_width": 1}}
    good |= {"left_inside": 0.2, "seconds": {"of analysis": 0.01, "of capture": 1.0, "all": 2.0}, "stage": "train"}
    rows: dict[str, dict[str, Any]] = {
        "a": good,
        "b": {**good, "form": "graph", "left_inside": 0.5},
        "c": {**good, "outcome": "wrong"},
        "d": {"outcome": "no capture", "stage": "capture", "seconds": {}},
        "e": {"outcome": "not made", "stage": "make", "seconds": {}},
    }
    for name, row in rows.items():
        write_json(runner.file_of(name), {"name": name, **row})
    found = {figure.name: figure.value for figure in results.figures([*rows, "never run"])}
    assert found["networks"] == 5
    assert found["captured"] == 3
    assert found["wrong networks"] == 1
    assert found["captured without a verified smaller network"] == pytest.approx(100 / 3)
    assert found["not in module form"] == pytest.approx(200 / 3)
    assert found["half leaves 45% inside or more"] == pytest.approx(50)
    assert found["analysis / capture, median"] == pytest.approx(1)
