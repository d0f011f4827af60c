"""Programs with placeholders: what they span against listing it, and there and back."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from random import Random
from typing import Any

import numpy as np
import pytest

from pliant.checks import UnknownNameError, WrongShapeError
from pliant.space import Program, Symbolic, floatv, manyof, oneof, symbolic


@dataclass(frozen=True)
class Net:
    width: int
    block: Any = None
    extras: Any = None


@dataclass(frozen=True)
class Mlp:
    ratio: int


@dataclass(frozen=True)
class Conv:
    kernel: int
    inner: Any = None


def nested() -> Symbolic:
    conv = symbolic(Conv)(kernel=oneof([3, 5]), inner=oneof([None, symbolic(Mlp)(ratio=oneof([1, 2, 3]))]))
    return symbolic(Net)(oneof([32, 64]), block=oneof([symbolic(Mlp)(ratio=oneof([2, 4])), conv, "none"]))


def listed(program: Program) -> set[Any]:
    return {program.build(config) for config in program.space.enumerate()}


def test_counts_of_the_formula() -> None:
    program = Program(nested())
    # 2 widths x (2 ratios + 2 kernels x (1 + 3 ratios) + 1)
    assert program.size == 2 * (2 + 2 * (1 + 3) + 1)
    assert len(listed(program)) == program.size
    assert {program.canonical(config) for config in program.space.enumerate()} == set(program.leaves())
    assert len(list(program.leaves())) == program.size
    assert program.space.size == 2 * 3 * 2 * 2 * 2 * 3


@pytest.mark.parametrize(
    ("distinct", "ordered", "count"), [(True, True, 12), (True, False, 6), (False, True, 16), (False, False, 10)]
)
def test_manyof_lists(distinct: bool, ordered: bool, count: int) -> None:
    program = Program(symbolic(Net)(1, extras=manyof(2, ["a", "b", "c", "d"], distinct=distinct, ordered=ordered)))
    assert program.space.size == program.size == count
    built = [program.build(config).extras for config in program.space.enumerate()]
    assert len({tuple(each) for each in built}) == count
    assert all(len(each) == 2 for each in built)


def test_decisions_inside_a_list_count_where_taken() -> None:
    tree = symbolic(Net)(1, extras=manyof(2, [symbolic(Mlp)(oneof([1, 2, 3])), "b", "c"]))
    program = Program(tree)
    assert program.size == 3 + 3 + 1
    built = {(net.width, tuple(net.extras)) for net in map(program.build, program.space.enumerate())}
    assert len(built) == 7


def test_a_config_makes_a_program_and_the_program_its_config(rng: Random) -> None:
    program = Program(nested())
    for _ in range(50):
        config = program.canonical(program.space.sample(rng))
        bound = program.bind(config)
        assert program.config_of(bound) == config
        assert program.bind(program.config_of(bound)) == bound


def test_equal_programs_have_one_canonical_config() -> None:
    program = Program(nested())
    by_program: dict[Any, set[Any]] = {}
    for config in program.space.enumerate():
        by_program.setdefault(program.build(config), set()).add(program.canonical(config))
    assert all(len(configs) == 1 for configs in by_program.values())


def test_the_decisions_that_matter() -> None:
    program = Program(nested())
    names = [choice.name for choice in program.space.choices]
    assert names == ["0", "block", "block.0.ratio", "block.1.kernel", "block.1.inner", "block.1.inner.1.ratio"]
    configs = list(program.space.enumerate())
    rows = program.space.indices(configs)
    active = program.counts.active(rows)
    for config, flags in zip(configs, active, strict=True):
        made = program.build(config)
        for at, name in enumerate(names):
            others = [option for option in program.space.choices[at].options if option != config[name]]
            changed = any(program.build({**config, name: option}) != made for option in others)
            assert changed == flags[at] or name == "0"


def test_a_tree_is_changed_by_making_another() -> None:
    tree = nested()
    changed = tree.rebind({"block.0.ratio": 8, "0": 7})
    assert tree == nested()
    assert Program(changed).size == 1 + 2 * 4 + 1
    doubled = tree.patch(lambda path, value: value * 2 if path.endswith(("ratio.0", "ratio.1")) else value)
    assert {net.block.ratio for net in listed(Program(doubled)) if isinstance(net.block, Mlp)} == {4, 8}
    assert tree.clone() == tree
    assert tree.clone().kwargs is not tree.kwargs


def test_floatv_steps() -> None:
    assert floatv(0.0, 1.0, 3).candidates == (0.0, 0.5, 1.0)
    found = np.array(floatv(1e-4, 1e-1, 4, log=True).candidates)
    assert found == pytest.approx([1e-4, 1e-3, 1e-2, 1e-1])
    assert floatv(0.0, 1.0, 3).ordered


def test_lists_dictionaries_and_functions_hold_placeholders() -> None:
    tree = symbolic(dict)(layers=[oneof([1, 2]), {"deep": (oneof(["a", "b"]), 3)}])
    built = [Program(tree).build(config) for config in Program(tree).space.enumerate()]
    assert built == [
        {"layers": [first, {"deep": (second, 3)}]} for first, second in itertools.product([1, 2], ["a", "b"])
    ]


def test_constraints() -> None:
    program = Program(symbolic(Net)(width=oneof([16, 32, 64])), constraints=("width >= 32",))
    assert {net.width for net in listed(program)} == {32, 64}
    assert {leaf["width"] for leaf in program.leaves()} == {32, 64}


def test_bad_programs() -> None:
    with pytest.raises(WrongShapeError, match="no placeholder"):
        Program(symbolic(Net)(1))
    with pytest.raises(WrongShapeError, match="not made yet"):
        Program(Net(1))  # type: ignore[arg-type]
    with pytest.raises(WrongShapeError, match="class or a function"):
        symbolic(3)  # type: ignore[arg-type]
    with pytest.raises(WrongShapeError, match="oneof takes a list"):
        oneof([])
    with pytest.raises(WrongShapeError, match="manyof takes from 1 to 2"):
        manyof(3, [1, 2])
    with pytest.raises(WrongShapeError, match="at most 10000"):
        manyof(6, list(range(30)))
    with pytest.raises(WrongShapeError, match="floatv goes"):
        floatv(1.0, 0.0)
    with pytest.raises(UnknownNameError, match=r"did you mean 'block.0.ratio'"):
        nested().rebind({"block.0.ratoi": 1})
    with pytest.raises(WrongShapeError, match="is not one of the programs"):
        Program(nested()).config_of(symbolic(Net)(5, block="none"))
    with pytest.raises(WrongShapeError, match="may not replace the program"):
        nested().patch(lambda path, value: 1)
