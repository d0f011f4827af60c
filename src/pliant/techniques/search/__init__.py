"""Searchers: which config to measure next. They see a space and plain numbers, and know no torch."""

DEFAULT = "bayesian"
