"""Choices of a family: directions in which a network bends while its weights are shared."""

DEFAULTS = ("width", "depth")
