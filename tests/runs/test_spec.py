"""Techniques as text: what is read, and what each mistake is told."""

from __future__ import annotations

import pytest

from pliant import catalog
from pliant.checks import PliantError, UnknownNameError
from pliant.runs.spec import checked_recipe, elastic, recipe, searcher, split
from pliant.techniques.search.nsga2 import Nsga2
from pliant.techniques.search.search_flow import SearchFlow


def test_names_and_fields_are_read() -> None:
    width, depth = elastic(["width(ratios=(0.5, 1.0), kinds=('width', 'stream')), depth"])
    assert repr(width) == "Width(ratios=(0.5, 1.0), multiple=8, kinds=('width', 'stream'), uniform=False)"
    assert depth == catalog.load("depth")()


def test_a_list_and_one_text_mean_the_same() -> None:
    assert elastic(["width", "depth(least=0.25)"]) == elastic(["width,depth(least=0.25)"])
    assert split("width ,depth( least = 0.25 )") == ("width", "depth(least=0.25)")


@pytest.mark.parametrize(
    ("text", "kind", "said"),
    [
        (
            "widht",
            UnknownNameError,
            r"of kind 'elastic' named 'widht'; did you mean 'width'. .known: depth, kernel_size",
        ),
        ("width(ratio=(1.0,))", UnknownNameError, "did you mean 'ratios'"),
        ("width(ratios=print(1))", PliantError, "plain Python value"),
        ("width(", PliantError, "give names"),
        ("width(0.5)", PliantError, "fields by name"),
        ("nsga2", PliantError, "adds no choices"),
        ("width(ratios=(2.0,))", PliantError, "at most 1"),
        ("width(ratios=0.5)", PliantError, "does not fit"),
    ],
)
def test_mistakes_get_one_clear_error(text: str, kind: type[Exception], said: str) -> None:
    with pytest.raises(kind, match=said):
        elastic([text])


def test_a_searcher_may_hold_another_and_is_read_as_it_is_shown() -> None:
    flow = searcher("search_flow(above=nsga2(population=4), below='mcts', outer=('a',))")
    assert flow == SearchFlow(outer=("a",), above=Nsga2(population=4))
    assert searcher(repr(flow)) == flow
    with pytest.raises(UnknownNameError, match="did you mean 'population'"):
        searcher("search_flow(above=nsga2(populaton=4))")


def test_a_recipe_is_read_with_its_fields() -> None:
    assert repr(recipe("sandwich(between=1)")).startswith("Sandwich(between=1, ")
    assert checked_recipe("sandwich( between = 1 )") == "sandwich(between=1)"
    assert recipe(checked_recipe(None)) == catalog.default("train")


@pytest.mark.parametrize(
    ("text", "kind", "said"),
    [
        ("sandwhich", UnknownNameError, "did you mean 'sandwich'"),
        ("sandwich(betwen=1)", UnknownNameError, "did you mean 'between'"),
        ("sandwich,rotation", PliantError, "one recipe is needed"),
        ("width", PliantError, "which trains no family; choose from .*rotation"),
        ("rotation(period=1)", PliantError, "2 or more"),
    ],
)
def test_mistakes_in_a_recipe_get_one_clear_error(text: str, kind: type[Exception], said: str) -> None:
    with pytest.raises(kind, match=said):
        checked_recipe(text)
