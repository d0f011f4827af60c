from __future__ import annotations

import copy
import subprocess
import sys
from collections import Counter
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pliant.checks import CorruptFileError, UnknownNameError, WrongShapeError
from pliant.space import Choice, Config, Constraint, Space
from tests.space.strategies import spaces, spaces_and_configs

DEPTH, WIDTH = Choice("depth", (1, 2, 3)), Choice("layers.0.width", (16, 32, 64))
KIND = Choice("kind", ("a", "b", "c"), ordered=False)
SPACE = Space([DEPTH, WIDTH, KIND])
SEEDS = st.integers(0, 2**32).map(Random)


@pytest.mark.slow
@given(spaces())
def test_size_equals_enumeration(space: Space) -> None:
    configs = list(space.enumerate())
    assert len(set(configs)) == len(configs) == space.size
    assert configs[0] == space.smallest()
    assert configs[-1] == space.largest()
    assert all(space.feasible(dict(config)) for config in configs)


@pytest.mark.slow
@given(spaces_and_configs(2), SEEDS, st.floats(0.01, 1))
def test_sample_mutate_crossover_and_neighbours_stay_in_the_space(pair, rng: Random, rate: float) -> None:
    space, (a, b) = pair
    mutant, child, neighbours = space.mutate(a, rng, rate), space.crossover(a, b, rng), space.neighbours(a)
    for config in (space.sample(rng), mutant, child, *neighbours):
        assert space.check(dict(config)) == config
    assert (mutant == a) == (space.size == 1)
    assert all(child[name] in (a[name], b[name]) for name in child)
    assert all(sum(near[name] != a[name] for name in near) == 1 for near in neighbours)
    assert all(a in space.neighbours(near) for near in neighbours)


@pytest.mark.slow
@given(spaces())
def test_json_round_trip(space: Space) -> None:
    again = Space.from_json(space.to_json())
    assert again == space
    assert hash(again) == hash(space)
    assert again.digest == space.digest
    assert again.choices == space.choices


@pytest.mark.slow
@given(spaces_and_configs(), SEEDS)
def test_the_same_seed_gives_the_same_config(pair, rng: Random) -> None:
    space, (config,) = pair
    state = rng.getstate()
    first = space.sample(rng), space.mutate(config, rng, 0.5)
    rng.setstate(state)
    assert (space.sample(rng), space.mutate(config, rng, 0.5)) == first


def test_sampling_is_uniform(rng: Random) -> None:
    space = Space([DEPTH, KIND], ["depth >= 2"])
    counts = Counter(space.sample(rng) for _ in range(6000))
    assert len(counts) == space.size == 6
    assert all(850 < count < 1150 for count in counts.values())  # 1000 expected, five standard deviations


def test_the_rate_of_mutation(rng: Random) -> None:
    space = Space([Choice(str(index), (0, 1, 2)) for index in range(50)])
    start = space.smallest()
    changed = [sum(option != 0 for option in space.mutate(start, rng, 0.2).values()) for _ in range(400)]
    assert sum(changed) / len(changed) == pytest.approx(10, abs=0.7)  # 50 x 0.2, five standard deviations
    for rate in (0, -1, 1.5):
        with pytest.raises(WrongShapeError, match=r"probability in \(0, 1\]"):
            space.mutate(start, rng, rate)


def test_neighbours_by_hand() -> None:
    found = SPACE.neighbours({"depth": 1, "layers.0.width": 32, "kind": "b"})
    differences = {next((name, near[name]) for name in near if near[name] not in (1, 32, "b")) for near in found}
    assert differences == {("depth", 2), ("layers.0.width", 16), ("layers.0.width", 64), ("kind", "a"), ("kind", "c")}
    assert len(found) == 5


def test_constraints_leave_options_out(rng: Random) -> None:
    space = Space([DEPTH, WIDTH], ["depth >= 2", Constraint("layers.0.width", "<", 64)])
    assert space.size == len(list(space.enumerate())) == 4
    assert space.smallest() == {"depth": 2, "layers.0.width": 16}
    assert space.largest() == {"depth": 3, "layers.0.width": 32}
    for _ in range(50):
        mixed = space.crossover(space.sample(rng), space.mutate(space.sample(rng), rng, 0.9), rng)
        assert mixed["depth"] != 1
        assert mixed["layers.0.width"] != 64
    assert not space.feasible({"depth": 1, "layers.0.width": 16})
    with pytest.raises(WrongShapeError, match=r"depth = 1 breaks 'depth >= 2.0'; allowed are \(2, 3\)"):
        space.check({"depth": 1, "layers.0.width": 16})
    assert not space.feasible(space.decode([0, 0]))


def test_constraints_that_cannot_be() -> None:
    with pytest.raises(UnknownNameError, match=r"constraint 'dept >= 2.0'.*did you mean 'depth'\?"):
        Space([DEPTH], ["dept >= 2"])
    with pytest.raises(WrongShapeError, match="leaves choice 'depth' none of its options"):
        Space([DEPTH], ["depth >= 2", "depth < 2"])
    with pytest.raises(WrongShapeError, match="needs numbers, but choice 'kind'"):
        Space([KIND], ["kind >= 2"])


def test_check_gives_the_stored_options() -> None:
    checked = SPACE.check({"kind": "a", "depth": 2.0, "layers.0.width": 16})
    assert type(checked["depth"]) is int
    assert list(checked) == ["depth", "layers.0.width", "kind"]


def test_check_teaches() -> None:
    whole = dict(SPACE.largest())
    with pytest.raises(UnknownNameError, match=r"no choice named 'layer.0.width'; did you mean 'layers.0.width'\?"):
        SPACE.check({**whole, "layer.0.width": 16})
    with pytest.raises(UnknownNameError, match=r"'layers.0.width' has no option 30; did you mean 32\?"):
        SPACE.check({**whole, "layers.0.width": 30})
    with pytest.raises(WrongShapeError, match=r"no option for 'layers.0.width', 'kind' \(2 of 3 choices\)"):
        SPACE.check({"depth": 1})
    assert not SPACE.feasible({"depth": 1})
    assert not SPACE.feasible({**whole, "other": 1})


@pytest.mark.parametrize("config", [None, 3, [("width", 8)]])
def test_what_is_no_config(config: Any) -> None:
    space = Space([Choice("width", (8, 16))])
    with pytest.raises(WrongShapeError, match=r"maps every choice to an option, such as \{'width': 16\}"):
        space.check(config)


@pytest.mark.parametrize("constraints", ["width <= 8", [3], [None]])
def test_what_are_no_constraints(constraints: Any) -> None:
    choices = [Choice("width", (8, 16))]
    with pytest.raises(WrongShapeError, match="constraints are a list such as"):
        Space(choices, constraints)


def test_complete_takes_the_largest() -> None:
    assert SPACE.complete({}) == SPACE.largest()
    assert SPACE.complete({"depth": 1}) == {"depth": 1, "layers.0.width": 64, "kind": "c"}
    with pytest.raises(UnknownNameError, match="no choice named 'x'"):
        SPACE.complete({"x": 1})


def test_an_empty_space_has_one_config(rng: Random) -> None:
    space = Space([])
    assert space.size == 1
    assert list(space.enumerate()) == [Config({})] == [space.mutate(Config({}), rng, 1.0)]
    assert space.encode({}).shape == (0,)
    assert space.decode([]) == {}


def test_two_choices_of_one_name() -> None:
    with pytest.raises(WrongShapeError, match="two choices are named 'depth'"):
        Space([DEPTH, WIDTH, DEPTH])


def test_sizes_are_exact_beyond_floats() -> None:
    assert Space([Choice(str(index), tuple(range(7))) for index in range(60)]).size == 7**60


def test_digest_tells_spaces_apart() -> None:
    digests = {Space(choices, rules).digest for choices, rules in [
        ([DEPTH, WIDTH], []), ([WIDTH, DEPTH], []), ([DEPTH], []), ([DEPTH, WIDTH], ["depth >= 1"]),
    ]}  # fmt: skip
    assert len(digests) == 4


@pytest.mark.parametrize("text", ["", "3", "{}", '{"choices": 3, "constraints": []}', '{"choices": [{}]}'])
def test_text_that_is_no_space(text: str) -> None:
    with pytest.raises(CorruptFileError, match="expected a space"):
        Space.from_json(text)


def test_it_imports_no_torch() -> None:
    line = "import sys, pliant.space; print('torch' in sys.modules, end='')"
    assert subprocess.run([sys.executable, "-c", line], capture_output=True, text=True, check=True).stdout == "False"


def test_a_config_is_checked_by_each_space_once() -> None:
    narrow = Space([Choice("depth", (1, 2)), WIDTH, KIND])
    config = SPACE.largest()
    assert SPACE.check(config) is config
    with pytest.raises(UnknownNameError, match="no option 3"):
        narrow.check(config)
    with pytest.raises(WrongShapeError, match="breaks"):
        Space(SPACE.choices, ["depth <= 2"]).check(config)
    loose = Config(dict(config))
    assert SPACE.check(loose) == loose
    assert SPACE.check(SPACE.check(loose)) == config
    assert copy.deepcopy(config) == config
