"""The zoo harness tells right from wrong; the zoo itself is run by `python -m benchmarks zoo`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from benchmarks.zoo import results, runner
from benchmarks.zoo.entries import Net
from benchmarks.zoo.kept_norms import kept_outputs
from benchmarks.zoo.measure import measure
from benchmarks.zoo.reference import Masks
from torch import Tensor, nn

from pliant.graph import analyze
from pliant.graph.realise import difference, outputs, sliced_copy
from pliant.graph.rules import RULES
from pliant.graph.slicing import Slicing
from tests.graph.nets import Branches
from tests.graph.support import Tiny, masked, randomise


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


def _standardised(weight: Tensor) -> Tensor:
    rows = weight.reshape(1, weight.shape[0], -1)
    return F.batch_norm(rows, None, None, training=True, eps=1e-6).reshape_as(weight)


class _Standardised(nn.Module):
    """Two convolutions whose weights are standardised over their inputs, as in networks without normalisation."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, width, 3), nn.Conv2d(width, 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = F.silu(F.conv2d(x, _standardised(self.a.weight), self.a.bias))
        return F.conv2d(x, _standardised(self.b.weight), self.b.bias)


def test_where_weights_are_standardised_zeros_are_no_reference_but_the_smaller_network_is() -> None:
    full, x, stay = randomise(_Standardised(8)), torch.randn(2, 3, 7, 7), [6, 1, 3]
    analysis = analyze(full, (x,))
    slicing = Slicing(analysis, {analysis.axes[0].name: stay})
    small = _Standardised(3).eval()
    state = full.state_dict()
    small.load_state_dict(
        {"a.weight": state["a.weight"][stay], "a.bias": state["a.bias"][stay]}
        | {"b.weight": state["b.weight"][:, stay], "b.bias": state["b.bias"]}
    )
    rows = state["b.weight"][:, stay].flatten(1)
    rows = (rows - rows.mean(1, keepdim=True)) / (rows.var(1, correction=0, keepdim=True) + 1e-6).sqrt()
    assert torch.allclose(_standardised(small.b.weight).flatten(1), rows, atol=1e-6)  # the formula itself
    by_hand, zeroed = outputs(small, (x,), {}), masked(full, slicing)
    for form in ("module", "graph"):
        assert difference(outputs(sliced_copy(full, slicing, form), (x,), {}), by_hand) <= 1e-6
    assert difference(outputs(zeroed, (x,), {}), by_hand) > 0.1
    assert difference(kept_outputs(zeroed, slicing, (x,), {}), by_hand) <= 1e-6
    assert not Masks(full, analysis, (x,), {}).keep  # the harness does not ask the zeros


def _weighted(h: Tensor) -> Tensor:
    heads = h.unflatten(-1, (3, 8)).transpose(0, 1)[None]
    return F.scaled_dot_product_attention(heads, heads * 2, heads).flatten(0, 1).transpose(0, 1).flatten(1)


_NORMS: dict[str, Callable[[Tensor], Tensor]] = {
    "layer norm": lambda h: F.layer_norm(h, (24,)),
    "RMS norm": lambda h: F.rms_norm(h, (24,)),
    "RMS norm by hand": lambda h: h * torch.rsqrt((h * h).mean(-1, keepdim=True) + 1e-6),
    "group norm": lambda h: F.group_norm(h + 1, 3),
    "batch statistics": lambda h: F.batch_norm(h.T, None, None, training=True).T,
    "softmax": lambda h: h.softmax(-1),
    "mean and variance": lambda h: h * h.var(-1, keepdim=True) + h.mean(-1, keepdim=True),
    "sum of exponentials": lambda h: h * h.logsumexp(-1, keepdim=True),
    "scale of attention": _weighted,
}


@pytest.mark.slow
@pytest.mark.parametrize("name", _NORMS)
def test_the_masked_reference_holds_over_norms_and_fails_for_wrong_cuts(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def masks(wrong: bool) -> Masks:
        def forward(s: Any, x: Tensor) -> Tensor:
            h = s.a(x)
            return s.b(_NORMS[name](h * h.flip(-1) if wrong else h))

        net = randomise(Tiny(forward, a=nn.Linear(5, 24), b=nn.Linear(24, 2)))
        args = (torch.randn(3, 5),)
        return Masks(net, analyze(net, args), args, {})

    right = masks(False)
    axes = list(right.keep_norms)
    assert axes
    assert len(right.keep) < len(axes)
    assert right.gap_norms(axes) <= 1e-5
    assert right.gap(axes) > 1e-2  # plain zeros are counted
    other = Slicing(
        right.analysis, {n: [(i + 1) % right.analysis.axis(n).size for i in right.keep_norms[n]] for n in axes}
    )
    zeroed = masked(right.model, right._slicing(axes))
    assert difference(right._cut(other), kept_outputs(zeroed, right._slicing(axes), right.args, {})) > 1e-2
    monkeypatch.setitem(RULES, "flip", RULES["pointwise"])  # as if the order of the units did not matter
    wrong = masks(True)
    assert wrong.gap_norms(list(wrong.keep_norms)) > 1e-2


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
