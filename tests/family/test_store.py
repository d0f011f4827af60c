"""Saving and loading: whole or not at all, and one clear error for whatever is wrong with a folder."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from pliant.checks import CorruptFileError, PliantError, UnknownNameError, WrongShapeError
from pliant.family import Family, at, store
from pliant.techniques.elastic.depth import Depth
from pliant.techniques.elastic.width import Width
from tests.family.nets import Branches, ConvNet, Gpt, Structured, images, tokens, vectors

ROOT = Path(__file__).parents[2]


def make(seed: int = 0) -> Any:
    torch.manual_seed(seed)
    choices: list[Any] = [Width(ratios=(0.5, 1), multiple=4), at("blocks*", Depth(least=0, order=("blocks.0",)))]
    return Family(ConvNet(), (images(),), choices, constraints=["blocks.0.width >= 8"])


def loaded(folder: Path) -> Any:
    return Family.load(folder, ConvNet()).model


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make().save(tmp_path_factory.mktemp("families") / "family")


@pytest.fixture
def folder(original: Path, tmp_path: Path) -> Path:
    """A saved family to damage."""
    return Path(shutil.copytree(original, tmp_path / "family"))


@pytest.fixture
def saved(tmp_path: Path) -> tuple[Any, Path]:
    family = make()
    family.prepare()
    return family, family.save(tmp_path / "family", {"run": {"seed": 3}})


@pytest.mark.slow
def test_a_fresh_process_gets_the_same_family(saved: tuple[Any, Path], tmp_path: Path) -> None:
    family, folder = saved
    config = family.space.smallest()
    torch.save({"config": config.to_json(), "output": family.extract(config)(images())}, tmp_path / "expected.pt")
    code = f"""
        import torch
        from pliant.family import Family
        from pliant.space import Config
        from tests.family.nets import ConvNet, images
        expected = torch.load({str(tmp_path / "expected.pt")!r})
        torch.manual_seed(99)
        family = Family.load({str(folder)!r}, ConvNet())
        assert family.prepared
        assert family.space.size == {family.space.size}
        assert torch.equal(family.extract(Config.from_json(expected["config"]))(images()), expected["output"])
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(code)], check=True, cwd=ROOT, timeout=120)


@pytest.mark.slow
def test_everything_survives(saved: tuple[Any, Path]) -> None:
    family, folder = saved
    again: Any = Family.load(folder, ConvNet())
    assert again.space == family.space
    assert again.techniques == family.techniques
    assert again.space.constraints == family.space.constraints
    assert all(torch.equal(v, family.model.state_dict()[k]) for k, v in again.model.state_dict().items())
    assert json.loads((folder / "family.json").read_text())["record"] == {"run": {"seed": 3}}


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["tied", "keywords"])
def test_tied_tensors_and_keywords_survive(kind: str, tmp_path: Path) -> None:
    if kind == "tied":
        model: Callable[[], nn.Module] = Gpt
        family = Family(Gpt(), (tokens(),), [Width(multiple=4)])
    else:
        model = Structured
        family = Family(Structured(), (vectors(4, 8),), [Width(multiple=4)], {"shift": vectors(4, 16), "scale": 0.5})
    again: Any = Family.load(family.save(tmp_path), model())
    assert again.analysis.capture.kwargs.keys() == family.analysis.capture.kwargs.keys()
    assert again.space == family.space
    if kind == "tied":
        assert again.model.head.weight is again.model.embed.weight
        x, config = tokens(), family.space.smallest()
        assert torch.equal(again.extract(config)(x), family.extract(config)(x))


def test_saving_again_keeps_one_of_each_file(saved: tuple[Any, Path]) -> None:
    family, folder = saved
    with torch.no_grad():
        family.model.head.weight.mul_(2)
    family.save(folder)
    assert sorted(path.name.partition("-")[0] for path in folder.iterdir()) == ["example", "family.json", "weights"]
    assert torch.equal(loaded(folder).head.weight, family.model.head.weight)


@pytest.mark.slow
@pytest.mark.parametrize("writer", ["write_tensors", "write_json"])
@pytest.mark.parametrize("after", [0, 1])
def test_a_save_that_dies_leaves_the_family_before_it(
    saved: tuple[Any, Path], monkeypatch: pytest.MonkeyPatch, writer: str, after: int
) -> None:
    family, folder = saved
    before = family.model.head.weight.detach().clone()
    with torch.no_grad():
        family.model.head.weight.mul_(2)
    real, calls = getattr(store, writer), []

    def dies(*args: Any) -> Any:
        calls.append(args)
        if len(calls) > after:
            raise KeyboardInterrupt
        return real(*args)

    monkeypatch.setattr(store, writer, dies)
    if writer == "write_json" and after:  # the record itself is whole: only the tidying up is left
        family.save(folder)
        before = family.model.head.weight.detach().clone()
    else:
        with pytest.raises(KeyboardInterrupt):
            family.save(folder)
    assert torch.equal(loaded(folder).head.weight, before)


def weights(folder: Path) -> Path:
    return next(folder.glob("weights-*"))


def rewrite(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    record = json.loads((folder / "family.json").read_text())
    change(record)
    (folder / "family.json").write_text(json.dumps(record))


DAMAGE: dict[str, tuple[Callable[[Path], object], type[PliantError], str]] = {
    "no record": (
        lambda f: (f / "family.json").unlink(),
        CorruptFileError,
        "there is no family in .*family.json is mis",
    ),
    "no folder": (shutil.rmtree, CorruptFileError, "give the folder that save"),
    "half a record": (
        lambda f: (f / "family.json").write_text((f / "family.json").read_text()[:100]),
        CorruptFileError,
        "cannot be read",
    ),
    "another kind of record": (lambda f: (f / "family.json").write_text("[1]"), CorruptFileError, "cannot be read"),
    "not text": (lambda f: (f / "family.json").write_bytes(b"\xff\xfe\x00"), CorruptFileError, "cannot be read"),
    "another format": (lambda f: rewrite(f, lambda r: r.update(format=99)), CorruptFileError, "format 99"),
    "a key less": (lambda f: rewrite(f, lambda r: r.pop("weights")), CorruptFileError, "'weights'"),
    "no weights": (lambda f: weights(f).unlink(), CorruptFileError, "a file is missing"),
    "half the weights": (
        lambda f: weights(f).write_bytes(weights(f).read_bytes()[:-100]),
        CorruptFileError,
        "half-written",
    ),
    "changed weights": (
        lambda f: weights(f).write_bytes(weights(f).read_bytes()[:-1] + b"\x01"),
        CorruptFileError,
        "was changed after it was saved",
    ),
    "empty weights": (lambda f: weights(f).write_bytes(b""), CorruptFileError, "cannot be read"),
    "no example": (lambda f: next(f.glob("example-*")).unlink(), CorruptFileError, "a file is missing"),
    "unknown technique": (
        lambda f: rewrite(f, lambda r: r["techniques"][0].update(technique="Widht")),
        UnknownNameError,
        "no technique named 'Widht'; did you mean 'width'|'Width'",
    ),
    "unknown field": (
        lambda f: rewrite(f, lambda r: r["techniques"][0]["fields"].update(colour="red")),
        CorruptFileError,
        "this version does not take",
    ),
    "a technique of another kind": (
        lambda f: rewrite(f, lambda r: r["techniques"][0].update(technique="Sandwich", fields={})),
        CorruptFileError,
        "adds no choices",
    ),
    "techniques that are none": (lambda f: rewrite(f, lambda r: r.update(techniques=[3])), CorruptFileError, "record"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damage_gets_one_clear_error(folder: Path, damage: str) -> None:
    harm, kind, text = DAMAGE[damage]
    harm(folder)
    left = sorted(folder.iterdir()) if folder.exists() else []
    with pytest.raises(kind, match=text):
        Family.load(folder, ConvNet())
    assert (sorted(folder.iterdir()) if folder.exists() else []) == left


@pytest.mark.parametrize("wrong", [{"width": 12}, {"blocks": 3}, {"classes": 4}])
def test_another_model_is_refused(folder: Path, wrong: dict[str, int]) -> None:
    with pytest.raises(WrongShapeError, match="do not fit this model"):
        Family.load(folder, ConvNet(**wrong))


@pytest.mark.filterwarnings("ignore::pliant.checks.NoEffectWarning")
def test_the_same_weights_in_another_network_are_refused(folder: Path) -> None:
    class Straight(ConvNet):
        blocks: Any

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.norm(self.stem(x))
            for block in self.blocks:
                x = block.norm2(block.conv2(block.norm1(block.conv1(x))))
            return self.head(x.mean((2, 3)))

    with pytest.raises(PliantError, match="give the same network|no block named"):
        Family.load(folder, Straight())


def test_a_folder_that_cannot_be_written(saved: tuple[Any, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    family, folder = saved

    def refused(*_: Any, **__: Any) -> Any:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("safetensors.torch.save_file", refused)
    with torch.no_grad():
        family.model.head.weight.mul_(2)
    with pytest.raises(PliantError, match=r"[Nn]o space left on"):
        family.save(folder)
    assert not list(folder.glob(".*"))
    Family.load(folder, ConvNet())


def test_a_family_that_was_moved_to_another_precision(tmp_path: Path) -> None:
    x = vectors(3, 8)
    family = Family(Branches(), (x,), [Width(multiple=8)])
    family.model.double()
    family.save(tmp_path)
    same = Family.load(tmp_path, Branches().double())
    config = family.space.smallest()
    assert torch.equal(same.extract(config)(x.double()), family.extract(config)(x.double()))
    other = Family.load(tmp_path, Branches())
    torch.testing.assert_close(other.extract(config)(x), same.extract(config)(x.double()).float())
