"""Cells as choices: their names, what of them matters, and that they are found again."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from pliant.space import Choice, Config, Space
from pliant.space.program import ProgramForms
from pliant.space.trees import IDENTITY, MEAN, ONE, PARTS, Node, conditions, tree_choices, trees

ALL = (ONE, MEAN, PARTS)


def made(merges: list[tuple[str, ...]], most: int) -> tuple[Space, Node, ProgramForms]:
    space = Space(tree_choices("1", merges, (IDENTITY, "max 3"), most))
    [node] = trees(space.choices)
    return space, node, ProgramForms(space, [around for _, around in sorted(conditions(node, space.choices).items())])


def written(node: Node, config: Config) -> str:
    """A cell spelled out: what is not there is not in it."""
    found = []
    for slot in node.slots[: node.branches(config)]:
        text = "layer" if slot.operation is None else str(config[f"{slot.name}.operation"])
        if slot.then is not None and config[f"{slot.name}.grow"]:
            text += " then " + written(slot.then, config)
        found.append(text)
    return f"{config[f'{node.name}.merge']}({', '.join(found)})"


def test_names() -> None:
    space, node, _ = made([(ONE, MEAN), ALL], 2)
    assert [choice.name for choice in space.choices] == [
        "1.merge",
        "1.branches.0.grow", "1.branches.0.then.merge",
        "1.branches.0.then.branches.0.operation", "1.branches.0.then.branches.1.operation",
        "1.branches.1.grow", "1.branches.1.then.merge",
        "1.branches.1.then.branches.0.operation", "1.branches.1.then.branches.1.operation",
    ]  # fmt: skip
    assert [each.name for each in node.nodes()] == ["1", "1.branches.0.then", "1.branches.1.then"]
    assert written(node, space.smallest()) == "one(layer)"
    assert written(node, space.largest()) == "mean(layer then parts(max 3, max 3), layer then parts(max 3, max 3))"


@pytest.mark.parametrize(("merges", "most"), [([(ONE, MEAN)], 3), ([ALL, ALL], 2), ([(ONE, MEAN), (ONE, MEAN)], 3)])
def test_what_does_not_matter_is_what_does_not_show(merges: list[tuple[str, ...]], most: int) -> None:
    """Configs with one canonical form are one cell, and no others are."""
    space, node, forms = made(merges, most)
    rng = np.random.default_rng(0)
    sizes = [len(choice.options) for choice in space.choices]
    rows = rng.integers(sizes, size=(400, len(sizes)))
    if space.size < 400:
        rows = np.array(list(itertools.product(*map(range, sizes))))
    cells = [written(node, config) for config in space.configs(rows)]
    forms_of = list(map(tuple, forms.canonical(rows).tolist()))
    assert len(set(cells)) == len(set(forms_of)) == len(set(zip(cells, forms_of, strict=True)))


def test_other_choices_are_no_cells() -> None:
    choices = [
        Choice("merge", (ONE, MEAN)),
        Choice("a.merge", (1, 2)),
        Choice("b.merge", ("x", MEAN)),
        Choice("c", (1,)),
    ]
    assert trees(choices) == []
    assert [node.name for node in trees([*choices, *tree_choices("d", [ALL], (IDENTITY,), 2)])] == ["d"]
