from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pliant.checks import UnknownNameError, WrongShapeError
from pliant.space import Constraint

FINITE = st.floats(-1e9, 1e9, allow_nan=False)
OPS = st.sampled_from(["<=", ">=", "==", "<", ">"])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("macs <= 1e6", Constraint("macs", "<=", 1e6)),
        ("  depth>=2 ", Constraint("depth", ">=", 2)),
        ("layers.3.mlp.width == 128", Constraint("layers.3.mlp.width", "==", 128)),
        ("error < -0.5", Constraint("error", "<", -0.5)),
        ("peak memory > 1_000", Constraint("peak memory", ">", 1000)),
    ],
)
def test_parse(text: str, expected: Constraint) -> None:
    assert Constraint.parse(text) == expected


@pytest.mark.slow
@given(OPS, FINITE)
def test_text_round_trip(op: str, bound: float) -> None:
    constraint = Constraint("a.b", op, bound)
    assert Constraint.parse(str(constraint)) == constraint


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("macs", "cannot read the constraint 'macs'"),
        ("", "cannot read the constraint ''"),
        ("macs < = 3", "cannot read"),
        ("1 <= macs <= 3", "cannot read"),
        ("macs <= small", "'small' on the right is no number"),
        ("macs <=", "'' on the right is no number"),
        ("macs = 3", "did you mean '=='"),
        ("macs =< 3", "did you mean '<='"),
        ("macs => 3", "did you mean '>='"),
        ("macs != 3", "compares with one of"),
        ("<= 3", "names a value on its left"),
        ("macs <= nan", "nan compares with nothing"),
    ],
)
def test_what_cannot_be_read_teaches(text: str, said: str) -> None:
    with pytest.raises(WrongShapeError, match=said) as caught:
        Constraint.parse(text)
    assert "'macs <= 1e6'" in str(caught.value)


@given(OPS, FINITE, FINITE)
def test_violation_is_zero_exactly_where_it_holds(op: str, bound: float, value: float) -> None:
    constraint = Constraint("x", op, bound)
    violation = constraint.violation({"x": value})
    assert violation >= 0
    assert (violation == 0) == constraint.holds({"x": value})


def test_violation_is_relative_to_the_bound() -> None:
    assert Constraint.parse("macs <= 200").violation({"macs": 300}) == pytest.approx(0.5)
    assert Constraint.parse("macs >= 200").violation({"macs": 50}) == pytest.approx(0.75)
    assert Constraint.parse("x <= 0").violation({"x": 3}) == pytest.approx(3)


def test_nan_never_holds() -> None:
    constraint = Constraint.parse("x <= 1")
    assert not constraint.holds({"x": math.nan})
    assert constraint.violation({"x": math.nan}) == math.inf


def test_an_unknown_value() -> None:
    with pytest.raises(UnknownNameError, match=r"no value named 'mac'; did you mean 'macs'\?"):
        Constraint.parse("mac <= 1").holds({"macs": 2})
