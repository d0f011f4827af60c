"""Recipes that train a family: which members learn from a batch, and from whom."""

DEFAULT = "rotation"
