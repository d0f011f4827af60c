"""Random choices, spaces and configs for property tests."""

from __future__ import annotations

from hypothesis import strategies as st

from pliant.space import Choice, Config, Space

NUMBERS = st.one_of(st.integers(-(10**6), 10**6), st.floats(-1e6, 1e6, allow_nan=False).map(lambda value: value + 0.0))
PLAIN = st.one_of(st.booleans(), NUMBERS, st.text(max_size=5))
OPTIONS = st.recursive(PLAIN, lambda inner: st.lists(inner, max_size=3).map(tuple), max_leaves=4)
NAMES = st.text(st.characters(codec="utf-8"), min_size=1, max_size=8).filter(str.strip)


@st.composite
def spaces(draw: st.DrawFn) -> Space:
    """A space of up to four choices with up to four options each: at most 256 configs."""
    names = draw(st.lists(NAMES, max_size=4, unique=True))
    options = st.lists(OPTIONS, min_size=1, max_size=4, unique=True).map(tuple)
    return Space([Choice(name, draw(options), ordered=draw(st.booleans())) for name in names])


@st.composite
def spaces_and_configs(draw: st.DrawFn, configs: int = 1) -> tuple[Space, list[Config]]:
    """A space and some configs of it."""
    space = draw(spaces())
    picked = [
        Config({choice.name: draw(st.sampled_from(choice.options)) for choice in space.choices}) for _ in range(configs)
    ]
    return space, picked
