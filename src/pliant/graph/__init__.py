"""What a network is: its captured graph, the terms of its dimensions, and what can be cut from it."""

from .analysis import Analysis as Analysis
from .analysis import analyze as analyze
from .nouns import Axis as Axis
from .nouns import Block as Block
from .nouns import Fixed as Fixed
from .nouns import Site as Site
