"""The page: self-contained, well formed, safe, and holding the numbers that were given."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import pytest

from pliant.checks import WrongShapeError
from pliant.report import Fixed, Kept, Proof, render, write_report
from pliant.report.render import by_reason, picture
from tests.report.sample import changed, sample

VOID = {"meta", "link", "br", "input", "img", "hr", "rect", "path", "circle", "line"}


class Page(HTMLParser):
    """Collects what a page refers to, its text, its ids, and whether its tags nest."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.references: list[tuple[str, str, str]] = []
        self.ids: list[str] = []
        self.labelled: list[str] = []
        self.text = ""
        self.data: str = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in VOID:
            self.open.append(tag)
        for name, value in attrs:
            if name in ("src", "href", "srcset", "action", "poster", "data", "xlink:href"):
                self.references.append((tag, name, value or ""))
            if name == "id":
                self.ids.append(value or "")
            if name == "aria-labelledby":
                self.labelled.append(value or "")
        self.chart = tag == "script" and ("id", "chart-data") in attrs

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag in VOID

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, f"</{tag}> at {self.getpos()}"

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] == "script" and self.chart:
            self.data += data
        elif self.open and self.open[-1] not in ("script", "style"):
            self.text += data


def parse(html: str) -> Page:
    page = Page()
    page.feed(html)
    page.close()
    assert page.open == []
    return page


def test_nothing_is_fetched_from_anywhere() -> None:
    html = render(sample())
    page = parse(html)
    assert page.references == []
    assert not re.search(r"@import|url\(|fetch\(|XMLHttpRequest|import\(|<link|<iframe|<object", html)
    outside = set(re.findall(r"(?:https?:)?//[\w.-]+\.\w+[^\s\"']*", html))
    assert outside == {"http://www.w3.org/2000/svg"}  # the name of SVG, which is never fetched


def test_it_is_well_formed_and_its_labels_exist() -> None:
    page = parse(render(sample()))
    assert len(set(page.ids)) == len(page.ids)
    assert set(page.labelled) <= set(page.ids)


def test_the_numbers_given_are_on_the_page() -> None:
    data = sample()
    text = " ".join(parse(render(data)).text.split())
    for expected in (
        "A member 4.3× faster at +1.39 points of error",
        "2.63 %",  # m42's error
        "3.31 ms",
        "spread 0.099 ms, 30 repeats",
        "ONNX Runtime, batch 64, 1 thread",
        "1.42 M",
        "87.7 k",
        "364 kB",
        "m71 is not recommended: at 3.36 ms it is not faster than the bigger m42 (3.31 ms)",
        "a constant of the traced program",
        "blocks.3.attn.qkv: q, k and v",
        "64/256",
        "left out",
        "artefacts give the same outputs 9.5e-07, at most 1e-04",
        'net = torch.export.load("members/m17.pt2").module()',
        "pliant run digits:vit --out runs/digits --seed 0 --threads 1",
        "Example CPU @ 2.40GHz",
        "2 min 11 s",
        "macs >= 4.2e5",
    ):
        assert expected in text, expected


def test_the_plot_has_every_point() -> None:
    data = sample()
    found = json.loads(parse(render(data)).data)
    values = {item["id"]: item["values"] for item in found["items"]}
    assert all(values[point.id] == point.values for point in data.findings.points)
    assert values["m42"]["latency"] == 3.31
    assert found["items"][-1]["summary"] == "4 of 5 blocks, stream 75 %, heads 25 %, hidden 75 %"


def test_text_of_users_is_only_text() -> None:
    evil = "</script><script>alert(1)</script><img src=x onerror=alert(2)>"
    data = changed(
        sample(),
        task=evil,
        fixed=(Fixed(evil, evil),),
        settings={evil: evil},
        commands=(evil,),
        points=(dataclasses.replace(sample().findings.points[0], id=evil, summary=evil),),
    )
    html = render(data)
    assert "<script>alert" not in html
    assert "<img" not in html
    page = parse(html)
    assert page.references == []
    assert json.loads(page.data)["items"][0]["id"] == evil


def test_little_data_makes_a_page_too() -> None:
    data = sample()
    bare = dataclasses.replace(data.members[0], kept=(), proof=Proof(), config={})
    page = parse(render(type(data)(task="mine.py", error="error", members=(bare,))))
    assert "No member was worth recommending" in page.text


@pytest.mark.skipif(shutil.which("node") is None, reason="needs Node.js to run the page's script")
@pytest.mark.parametrize(
    ("values", "words"),
    [
        ([262399950000, 262400000000, 262400050000], ["2.6239995e11", "2.624e11", "2.6240005e11"]),
        ([5e-7, 1e-6, 1.5e-6], ["5e-7", "1e-6", "1.5e-6"]),
        ([0, 2.5, 5], ["0", "2.5", "5"]),
        ([-97.5, -95], ["-97.5", "-95"]),
        ([12345.5, 12346], ["12345.5", "12346"]),
    ],
)
def test_labels_of_an_axis_differ_and_are_short(values: list[float], words: list[str]) -> None:
    script = (Path(render.__code__.co_filename).parent / "chart.js").read_text()
    number = script[script.index("function number(") : script.index("function ticks(")]
    step = values[1] - values[0]
    code = f"{number}; console.log(JSON.stringify({values}.map((v) => number(v, '', {step}))))"
    found = subprocess.run(["node", "-e", code], capture_output=True, text=True, check=True)
    assert json.loads(found.stdout) == words


def test_one_member_is_one() -> None:
    data = sample()
    assert "1 member of the" in " ".join(parse(render(changed(data, points=(), members=data.members[:1]))).text.split())


def test_it_is_written_whole(tmp_path: Path) -> None:
    path = write_report(sample(), tmp_path / "run" / "report.html")
    assert path.read_text(encoding="utf-8").startswith("<!doctype html>")
    assert path.stat().st_size < 300_000
    with pytest.raises(WrongShapeError):
        write_report(changed(sample(), members=()), path)
    assert path.stat().st_size > 10_000


def test_picture_is_a_row_per_group_and_a_column_per_kind() -> None:
    found = picture(
        [
            Kept("", "stream", 32, 64),
            Kept("b.0", "heads", 1, 4),
            Kept("b.0", "heads", 2, 4),
            Kept("b.1", "block", 0, 1),
            Kept("b.1", "heads", 4, 4),
        ]
    )
    assert found["kinds"] == ["stream", "heads"]
    assert [row["group"] for row in found["rows"]] == ["network", "b.0", "b.1"]
    assert [row["out"] for row in found["rows"]] == [False, False, True]
    assert [bar["share"] for bar in found["rows"][1]["cells"][1]] == [25.0, 50.0]


def test_reasons_are_grouped_most_frequent_first() -> None:
    groups = by_reason([Fixed("a", "x"), Fixed("b", "y (block.0: unbind)"), Fixed("c", "y (block.1: unbind)")])
    assert [(why, [item.what for item in items]) for why, items in groups] == [("y", ["b", "c"]), ("x", ["a"])]


def test_contrast_of_the_palette_is_accessible() -> None:
    """Text on page and card has a contrast of at least 4.5 to 1 (WCAG AA), in light and dark."""
    style = (Path(render.__code__.co_filename).parent / "style.css").read_text()
    light, dark = re.findall(r":root \{(.*?)\}", style, re.DOTALL)[:2]
    for block in (light, dark):
        colours = dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6})", block))
        for ink in ("ink", "muted", "accent", "reference", "bad"):
            for ground in ("page", "card", "faint"):
                assert contrast(colours[ink], colours[ground]) >= 4.5, (ink, ground)
        assert contrast(colours["accent"], colours["accent-soft"]) >= 4.5
        assert contrast(colours["dot"], colours["card"]) >= 2.5


def contrast(a: str, b: str) -> float:
    def luminance(colour: str) -> float:
        parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    high, low = sorted((luminance(a), luminance(b)), reverse=True)
    return (high + 0.05) / (low + 0.05)
