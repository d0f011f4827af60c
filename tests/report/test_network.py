"""The picture of a network, and the page that shows it."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pliant.graph import analyze
from pliant.graph.realise import sliced_copy
from pliant.graph.slicing import Slicing
from pliant.report.fold import fold, folded_names
from pliant.report.network import Picture, picture
from pliant.report.network_page import render_network, write_network_page


class Step(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm, self.up, self.down = nn.LayerNorm(8), nn.Linear(8, 16), nn.Linear(16, 8)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.down(F.gelu(self.up(self.norm(x))))


def model() -> nn.Sequential:
    return nn.Sequential(nn.Linear(5, 8), nn.Sequential(*(Step() for _ in range(4))), nn.Dropout(), nn.Linear(8, 3))


def seen(title: str = "net") -> Picture:
    net = model()
    return picture(net, analyze(net, (torch.randn(2, 5),)), title)


def test_names_that_differ_in_one_number_are_folded() -> None:
    assert folded_names(["a.0.w", "a.1.w", "a.2.w", "a.4.w", "b", "a.0.v"]) == ["a.0-2,4.w", "b", "a.0.v"]
    grid = [f"l.{i}.b.{j}.w" for i in range(3) for j in range(2)]
    assert folded_names(grid) == ["l.0-2.b.0-1.w"]
    assert folded_names([*grid, "l.3.b.0.w"]) == ["l.0-2.b.0-1.w", "l.3.b.0.w"], "nothing is claimed that is not there"
    rows = fold([("x.0", 8), ("x.1", 16), ("x.2", 8)])
    assert [(row.name, row.items) for row in rows] == [("x.0,2", (0, 2)), ("x.1", (1,))]
    assert folded_names([]) == []


def test_every_fold_stands_for_exactly_its_names() -> None:
    generator = torch.Generator().manual_seed(0)
    for _ in range(50):
        numbers = torch.randint(0, 3, (8, 2), generator=generator).tolist()
        names = list(dict.fromkeys(f"a.{i}.b.{j}" for i, j in numbers))
        meant = []
        for row in fold((name, None) for name in names):
            first, second = (re.findall(r"[\d,-]+", row.name)[k] for k in (0, 1))
            meant += [f"a.{i}.b.{j}" for i in _numbers(first) for j in _numbers(second)]
        assert sorted(meant) == sorted(names)


def _numbers(text: str) -> list[int]:
    return [n for run in text.split(",") for n in range(int(run.split("-")[0]), int(run.split("-")[-1]) + 1)]


def test_the_tree_folds_repeats_and_counts_every_parameter_once() -> None:
    net = model()
    shown = picture(net, analyze(net, (torch.randn(2, 5),)), "net")
    total = sum(p.numel() for p in net.parameters())
    assert shown.root.parameters == shown.totals.parameters == total
    assert [(p.name, p.kind, p.repeats, p.block) for p in shown.root.children] == [
        ("0", "Linear", 1, False),
        ("1.0-3", "Step", 4, True),
        ("3", "Linear", 1, False),
    ]
    assert sum(part.parameters for part in shown.root.children) == total
    assert shown.root.children[1].bends == (("width", 16),)
    assert shown.blocks == ("1.0-3",)
    rows = {row.name: row for row in shown.axes}
    assert (rows["1.0-3.width"].count, rows["1.0-3.width"].size) == (4, 16)
    assert rows["1.0-3.width"].tensors == ("1.0-3.up.weight[0]", "1.0-3.up.bias[0]", "1.0-3.down.weight[1]")
    assert {row.why for row in shown.fixed} >= {"a size of the network's output"}


def test_tied_weights_are_counted_once() -> None:
    net = nn.Sequential(nn.Embedding(9, 4), nn.Linear(4, 9, bias=False))
    net[1].weight = net[0].weight
    shown = picture(net, analyze(net, (torch.randint(0, 9, (2, 3)),)), "tied")
    assert shown.root.parameters == 36
    assert [part.parameters for part in shown.root.children] == [36]


def test_the_share_at_half_is_that_of_the_network_cut_to_half() -> None:
    net = model()
    analysis = analyze(net, (torch.randn(2, 5),))
    small = sliced_copy(net, Slicing(analysis, {axis.name: axis.size // 2 for axis in analysis.axes}))
    share = sum(p.numel() for p in small.parameters()) / sum(p.numel() for p in net.parameters())
    assert abs(picture(net, analysis, "net").totals.half - share) < 1e-9


class _Page(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.links: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in ("meta", "br", "link", "img"):
            self.open.append(tag)
        self.links += [value or "" for name, value in attrs if name in ("src", "href")]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def test_the_page_holds_everything_and_needs_nothing(tmp_path: Path) -> None:
    path = write_network_page(seen("<b>net</b>"), tmp_path / "net.html")
    page = _Page()
    page.feed(path.read_text(encoding="utf-8"))
    assert not page.open
    assert not page.links, "nothing is fetched"
    for part in ("<b>net</b>", "1.0-3.width", "16 units in each of 4", "may be left out", "1.0-3.down.weight[1]"):
        assert part in page.text, part
    assert "a size of the network's output" in page.text
    assert "http" not in path.read_text(encoding="utf-8")


def test_a_network_that_does_not_bend() -> None:
    net = nn.Sequential(nn.ReLU())
    text = render_network(picture(net, analyze(net, (torch.randn(2, 5),)), "nothing"))
    assert "Nothing bends in this network" in text
    assert "What moves together" not in text
