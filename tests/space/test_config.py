from __future__ import annotations

import copy
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pliant.checks import CorruptFileError, UnknownNameError, WrongShapeError
from pliant.space import Config
from tests.space.strategies import NAMES, OPTIONS

MAPPINGS = st.dictionaries(NAMES, OPTIONS, max_size=5)


@given(MAPPINGS)
def test_json_round_trip(options: dict) -> None:
    config = Config(options)
    again = Config.from_json(config.to_json())
    assert again == config
    assert hash(again) == hash(config)
    assert again.key == config.key
    assert dict(again) == options
    assert {name: type(value) for name, value in again.items()} == {k: type(v) for k, v in options.items()}


@given(MAPPINGS, st.randoms(use_true_random=False))
def test_order_does_not_matter(options: dict, rng) -> None:
    names = list(options)
    rng.shuffle(names)
    shuffled = Config({name: options[name] for name in names})
    assert shuffled == Config(options)
    assert shuffled == options
    assert hash(shuffled) == hash(Config(options))
    assert len({shuffled, Config(options)}) == 1


@pytest.mark.slow
@given(MAPPINGS, MAPPINGS)
def test_equal_exactly_if_the_keys_are(a: dict, b: dict) -> None:
    assert (Config(a) == Config(b)) == (Config(a).key == Config(b).key)


def test_types_count() -> None:
    assert Config({"a": 1}) != Config({"a": True})
    assert Config({"a": 1}) != {"a": "1"}
    assert Config({"a": (1, 2)}) == {"a": [1, 2]}
    assert Config({"a": 1}) != {"a": object()}
    assert Config({"a": 1}) != 3


def test_it_cannot_be_changed() -> None:
    config = Config({"a": 1})
    with pytest.raises(TypeError):
        config["a"] = 2  # type: ignore[index]
    with pytest.raises(AttributeError):
        config.other = 2  # type: ignore[attr-defined]
    given_later = {"a": [1]}
    config = Config(given_later)  # type: ignore[arg-type]
    given_later["a"].append(2)
    assert config["a"] == (1,)


def test_the_key_is_the_same_in_another_process() -> None:
    line = "from pliant.space import Config; print(Config({'b': (1, 2), 'a': 0.5}).key, end='')"
    there = subprocess.run([sys.executable, "-c", line], capture_output=True, text=True, check=True).stdout
    assert there == Config({"a": 0.5, "b": (1, 2)}).key
    assert len(there) == 16


def test_copies_are_equal() -> None:
    config = Config({"a": (1, "x"), "b": True})
    assert copy.deepcopy(config) == config
    assert eval(repr(config)) == config  # noqa: S307  (the repr is code)


def test_missing_names() -> None:
    config = Config({"depth": 2})
    with pytest.raises(UnknownNameError, match=r"no choice named 'dept'; did you mean 'depth'\?"):
        config["dept"]
    assert config.get("dept") is None
    assert "dept" not in config


@pytest.mark.parametrize("options", [{1: 2}, {"a": None}, {"a": float("inf")}])
def test_what_is_no_config(options: dict) -> None:
    with pytest.raises(WrongShapeError):
        Config(options)


@pytest.mark.parametrize("text", ["", "{", "[1]", '{"a": null}', '{"a": {}}', '{"a": NaN}'])
def test_text_that_is_no_config(text: str) -> None:
    with pytest.raises(CorruptFileError, match="expected a config"):
        Config.from_json(text)
