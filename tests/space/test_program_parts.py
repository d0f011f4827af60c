"""Parts of a program: what they span, and that deciding all of them one after the other decides the whole."""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any

import pytest

from pliant.checks import UnknownNameError, WrongShapeError
from pliant.space import Config, Program, Symbolic, floatv, manyof, oneof, symbolic
from pliant.space.program import undecided


def apart() -> Symbolic:
    """Two parts that lie beside each other."""
    return symbolic(dict)(
        blocks=manyof(2, ["a", "b", "c"], hint="net"),
        width=oneof([8, 16], hint="net"),
        rate=floatv(0.1, 0.3, 3, hint="training"),
        decay=oneof([0.0, 0.1], hint="training"),
    )


def nested() -> Symbolic:
    """Sizes inside alternatives, an alternative inside a size's, and something without a hint."""
    conv = symbolic(dict)(kernel=oneof([3, 5], hint="sizes"), inner=oneof([None, symbolic(list)([oneof([1, 2, 3])])]))
    mlp = symbolic(dict)(ratio=oneof([2, 4, 8], hint="sizes"))
    deep = oneof([1, oneof([2, symbolic(dict)(q=oneof(["x", "y"], hint="net"))], hint="sizes")], hint="sizes")
    return symbolic(dict)(
        block=oneof([mlp, conv, "none"], hint="net"),
        again=manyof(2, [mlp, "skip", "pool"], hint="net"),
        deep=deep,
        width=oneof([32, 64]),
    )


def either(path: str, placeholder: Any) -> bool:
    return path in ("block", "deep", "again.0.ratio")


PARTS: dict[str, list[str | Callable[[str, Any], bool]]] = {
    "net, sizes, rest": ["net", "sizes", lambda path, placeholder: not placeholder.hint],
    "sizes, net, rest": ["sizes", "net", lambda path, placeholder: not placeholder.hint],
    "some, the others": [either, lambda path, placeholder: not either(path, placeholder)],
    "inner ones, outer ones": [lambda path, placeholder: "." in path, lambda path, placeholder: "." not in path],
}


@pytest.mark.parametrize("name", PARTS)
def test_deciding_all_parts_decides_the_whole(name: str, rng: Random) -> None:
    whole = Program(nested())
    parts = [whole.part(where) for where in PARTS[name]]
    assert sum(len(part.space.choices) for part in parts) == len(whole.space.choices)
    for _ in range(60):
        config = whole.canonical(whole.space.sample(rng))
        pieces = [part.restricted(config) for part in parts]
        assert whole.joined(*pieces) == config
        left: Program = whole
        for part, piece in zip(parts, pieces, strict=True):
            assert part.config_of(part.bind(piece)) == piece
            alive = {choice.name for choice in left.space.choices}
            left = left.given({choice: option for choice, option in piece.items() if choice in alive})
        assert left.space.choices == ()
        assert left.size == 1
        assert left.bind({}) == whole.bind(config)
        assert left.build({}) == whole.build(config)
        assert undecided(left.bind({})) == []


def test_sizes_multiply_where_parts_are_independent_and_add_up_where_they_are_not() -> None:
    whole = Program(apart())
    net, training = whole.part("net"), whole.part("training")
    assert (net.size, training.size) == (3 * 2, 3 * 2)
    assert whole.size == net.size * training.size == 36
    for config in net.space.enumerate():
        assert whole.given(config).size == training.size
    whole = Program(nested())
    outer = whole.part("net")
    firsts = {outer.canonical(config) for config in outer.space.enumerate()}
    assert len(firsts) == outer.size == 3 * 3 * 2  # q counts as mattering: what it lies in is undecided
    alone = {Config({name: config[name] for name in ("block", "again")}) for config in firsts}
    left = {config: whole.given(config) for config in alone}
    assert sum(each.size for each in left.values()) == whole.size
    made = {(config, each.canonical(rest)) for config, each in left.items() for rest in each.space.enumerate()}
    assert len(made) == whole.size


def test_what_is_left_keeps_its_names_and_drops_what_is_out_of_reach() -> None:
    whole = Program(nested())
    left = whole.given({"block": "1:dict", "deep": 1})
    names = [choice.name for choice in left.space.choices]
    assert names == ["block.1.kernel", "block.1.inner", "block.1.inner.1.0.0", "again", "again.0.ratio", "width"]
    assert left.fixed == {"block": "1:dict", "deep": 1}
    assert left.size == (2 * (1 + 3)) * (3 + 3 + 1) * 2
    assert Program(nested()).part("net").given({"block": "none"}).size == 3 * 2
    assert left.given({"block.1.kernel": 5}).build(left.given({"block.1.kernel": 5}).space.largest())["block"] == {
        "kernel": 5,
        "inner": [3],
    }


def test_a_part_is_ready_as_what_is_left() -> None:
    whole = Program(nested())
    outer = whole.part("net")
    config = outer.canonical({**outer.space.largest(), "block": "none", "again": ("skip", "pool")})
    left = outer.ready(config)
    assert isinstance(left, Program)
    assert [choice.name for choice in left.space.choices] == ["deep", "deep.1", "width"]
    built = left.ready(left.space.largest())
    assert built == {"block": "none", "again": ["skip", "pool"], "deep": {"q": "y"}, "width": 64}
    with pytest.raises(UnknownNameError, match="undecided"):
        outer.build(config)


def test_a_part_says_what_matters() -> None:
    whole = Program(nested())
    sizes = whole.part("sizes")
    names = [choice.name for choice in sizes.space.choices]
    rows = sizes.space.indices([{**sizes.space.largest(), "deep": 1}, {**sizes.space.largest()}])
    active = dict(zip(names, sizes.counts.active(rows).T.tolist(), strict=True))
    assert active.pop("deep.1") == [False, True]
    assert all(active.values())  # nobody knows yet which block there will be


def table(made: Any) -> float:
    """Something uneven over programs, the same in every process."""
    return Random(repr(made)).random() + len(repr(made)) / 1000


def small() -> Symbolic:
    block = oneof([symbolic(dict)(ratio=oneof([2, 4, 8], hint="sizes")), "none"], hint="net")
    deep = oneof([1, symbolic(dict)(q=oneof(["x", "y"], hint="net"))], hint="sizes")
    return symbolic(dict)(block=block, deep=deep, width=oneof([32, 64]))


@pytest.mark.parametrize("hints", [["net"], ["sizes"], ["net", "sizes"]])
def test_the_best_of_the_best_is_the_best(hints: list[str]) -> None:
    def best(program: Program, hints: list[str]) -> float:
        """The lowest value, looking through each part within the one before."""
        if not hints:
            return min(table(program.build(config)) for config in program.space.enumerate())
        outer = program.part(hints[0])
        return min(best(outer.ready(config), hints[1:]) for config in outer.space.enumerate())

    whole = Program(small())
    assert best(whole, hints) == best(whole, [])


def test_constraints_of_the_parts() -> None:
    whole = Program(apart(), constraints=("width >= 16", "rate <= 0.2"))
    assert [str(each) for each in whole.part("net").space.constraints] == ["width >= 16.0"]
    assert [str(each) for each in whole.part("training").space.constraints] == ["rate <= 0.2"]
    assert len(list(whole.part("net").space.enumerate())) == 3
    with pytest.raises(WrongShapeError, match="width = 8 breaks"):
        whole.given({"width": 8})


def test_a_program_is_changed_by_making_another() -> None:
    whole = Program(apart(), constraints=("width >= 8",))
    wider = whole.rebind({"width": oneof([8, 16, 32], hint="net")})
    assert (whole.size, wider.size) == (36, 54)
    assert wider.part("net").rebind({"blocks": ["a"]}).size == 3
    decided = whole.given({"decay": 0.1}).rebind({"rate": 0.5})
    assert decided.size == 6
    assert {decided.build(config)["decay"] for config in decided.space.enumerate()} == {0.1}
    again = whole.part("net").clone()
    assert again.tree == whole.tree
    assert again.tree.kwargs is not whole.tree.kwargs
    assert again.space == whole.part("net").space


def test_parts_of_parts() -> None:
    whole = Program(nested())
    sizes = whole.part("sizes")
    ratios = sizes.part(lambda path, placeholder: path.endswith("ratio"))
    assert [choice.name for choice in ratios.space.choices] == ["block.0.ratio", "again.0.ratio"]
    assert ratios.size == 9
    bound = ratios.bind({"block.0.ratio": 2, "again.0.ratio": 8})
    assert Program(bound).size == (1 + 2 * (1 + 3) + 1) * 3 * (1 + 1 + 2) * 2


def test_bad_parts() -> None:
    whole = Program(nested())
    with pytest.raises(UnknownNameError, match=r"no hint in the program named 'size'; did you mean 'sizes'"):
        whole.part("size")
    with pytest.raises(WrongShapeError, match="holds for no placeholder, expected some of block"):
        whole.part(lambda path, placeholder: False)
    with pytest.raises(UnknownNameError, match="no choice named 'blok'"):
        whole.given({"blok": "none"})
    with pytest.raises(UnknownNameError, match="no placeholder at the path named 'blok'; did you mean 'block'"):
        Program(nested(), given={"blok": "none"})
    with pytest.raises(WrongShapeError, match="width is 32 in one part and 64 in another"):
        whole.joined({"width": 32}, {"width": 64})
    with pytest.raises(WrongShapeError, match="no option for"):
        whole.part("net").restricted(Config({"block": "none"}))
    with pytest.raises(WrongShapeError, match="is not one of the programs"):
        whole.part("net").config_of(whole.bind(whole.space.largest()))
