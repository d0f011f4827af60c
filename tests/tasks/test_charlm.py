"""The charlm task: the split by file, the vocabulary, windows, causality and the measure."""

from __future__ import annotations

import itertools
import math
from pathlib import Path

import pytest
import torch

from pliant.checks import PliantError
from pliant.tasks import charlm
from pliant.tasks.charlm_gpt import CharGPT


def decode(tokens: torch.Tensor) -> str:
    return "".join((charlm.CHARACTERS + "\N{REPLACEMENT CHARACTER}")[token] for token in tokens.tolist())


def test_split_is_by_file_and_does_not_change() -> None:
    splits = [charlm.split_of(name) for name in ("ast.py", "abc.py", "argparse.py", "bisect.py")]
    assert splits == ["validation", "test", "test", "train"]  # a hash of the name: the same on every machine
    chosen = [path.name for path in charlm.files()]
    names = {split: {name for name in chosen if charlm.split_of(name) == split} for split in charlm.SPLITS}
    assert all(names.values())
    total = sum(map(len, names.values()))
    assert len(names["train"]) > 0.65 * total
    assert total == len(chosen)
    assert sum(path.stat().st_size for path in charlm.files()) <= charlm.MOST_BYTES


def test_encode_round_trips_and_marks_the_unknown() -> None:
    text = "def f(x):\n\treturn 'a~' # \x7f \u00e9 \U0001f600"
    expected = text.replace("\x7f", "\ufffd").replace("\u00e9", "\ufffd").replace("\U0001f600", "\ufffd")
    assert decode(charlm.encode(text)) == expected
    assert len(charlm.encode("")) == 0
    assert charlm.VOCABULARY == 98
    assert int(charlm.encode("\x00")[0]) == charlm.UNKNOWN


@pytest.mark.slow
def test_batches_are_windows_of_training_text_and_can_be_skipped() -> None:
    whole = list(itertools.islice(charlm.batches(5), 4))
    tokens, targets = whole[3]
    assert tokens.shape == targets.shape == (16, 128)
    assert tokens.dtype == torch.long
    assert torch.equal(tokens[:, 1:], targets[:, :-1])
    again = next(charlm.batches(5, start=3))
    assert torch.equal(again[0], tokens)
    assert torch.equal(again[1], targets)
    assert not torch.equal(next(charlm.batches(6))[0], whole[0][0])
    assert decode(tokens[0]) in decode(charlm.data()["train"])


def test_attention_is_causal() -> None:
    net = CharGPT(dim=16, depth=2, heads=2, head_dim=8, mlp_dim=32, context=12).eval()
    tokens = torch.randint(0, 98, (2, 12))
    changed = tokens.clone()
    changed[:, 8:] = 0
    with torch.no_grad():
        assert torch.allclose(net(tokens)[:, :8], net(changed)[:, :8], atol=1e-6)
        assert torch.allclose(net(tokens)[:, :8], net(tokens[:, :8]), atol=1e-6)


def test_the_head_is_tied_to_the_embedding() -> None:
    net = CharGPT(dim=16, depth=1, heads=2, head_dim=4, mlp_dim=8)
    assert net.head.weight is net.tokens.weight


def test_bits_of_a_uniform_guess() -> None:
    class Uniform(torch.nn.Module):
        def forward(self, tokens: torch.Tensor) -> torch.Tensor:
            return torch.zeros(*tokens.shape, charlm.VOCABULARY)

    figures = charlm.evaluate(Uniform(), "test")
    assert list(figures) == ["bits_per_char"]
    assert figures["bits_per_char"] == pytest.approx(math.log2(98))


def test_the_built_in_network_starts_near_uniform() -> None:
    net = charlm.model()
    inputs, targets = next(charlm.batches(0))
    with torch.no_grad():
        assert abs(float(charlm.loss(net(inputs[:2]), targets[:2])) - math.log(98)) < 1.0
    assert net(*charlm.example_args()).shape == (2, 128, 98)


def test_an_interpreter_without_its_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sysconfig.get_paths", lambda: {"stdlib": str(tmp_path)})
    with pytest.raises(PliantError, match="comes with its library's source"):
        charlm.files()
