"""MCUFormer: one-shot training of a vision transformer's family inside the memory of a microcontroller.

Members are drawn evenly, one per step, from those whose forward pass fits a number of bytes. What a pass needs is
planned: the patch embedding goes row by row, operations on tokens are joined, and a token's result overwrites what it
was made of (:mod:`pliant.graph.schedule`); so a search under the same limit, the objective of planned memory in its
constraints, meets members that were all trained. The choices that the paper adds for memory are the rank of the linear
layers and the patch size (elastic techniques of this catalogue), beside widths, heads and depth. The paper's claim:
73.62 % top-1 on ImageNet in the 320 KB of an STM32F746, the first transformer there; quantised, with kernels in C.

This implementation differs. The paper evolves the search space before it searches: one supernet for each pair of rank
ratio and patch size, at first five random pairs, each trained for 30 epochs on all its members, drawn evenly. Planes
are fitted over the nearest pairs to the members' mean accuracy and to the share of them that fits, and the pairs move
along their slopes, by 0.05 in the ratio and 4 pixels in the size, for ten rounds. Here ranks and patch sizes are
choices of one family, and all of them are trained in one run. In the authors' code the memory counts only as that
share, by a formula for one block of 8-bit numbers (with T patches of E numbers each, hidden layers M times as wide and
a rank ratio R: E ((T + 1) (1 + M) + E M R) bytes), and the evolutionary search within the last supernet counts
parameters. Here the limit holds for every member that is trained, as those that are never deployed need no training;
plans are for any network, found from the operations of a pass, in the network's own precision, so bytes of float32
stand four to one against the paper's. Weights are read from where they are stored, or counted with ``weights=True``.
Where the run has a teacher, members learn from its outputs, in the authors' code from the class that it finds most
likely, with the same weight as the labels. The paper's own text was not at hand beyond its introduction.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ...checks import WrongShapeError
from ...family.planned import planned_bytes
from ...space.config import Config
from ...technique import Paper, Recipe, Turn
from ._fields import check_counts, check_positive, check_shares
from ._learning import learn_led


@dataclass(frozen=True)
class Mcuformer(Recipe):
    """Train one member per step, drawn evenly from those that fit the memory.

    Attributes:
        memory: bytes that a planned forward pass of one sample may need.
        weights: whether the weights must fit into them too.
        tries: how many members are drawn before one that does not fit is made smaller until it does.
        lead: how much of its loss is distillation from the run's own teacher, where it has one.
        temperature: softens that teacher's outputs.
    """

    memory: int = 320 * 1024
    weights: bool = False
    tries: int = 8
    lead: float = 0.5
    temperature: float = 1.0

    paper: ClassVar[Paper | None] = Paper(
        "Liang, Wang, Xu, Tang, Zhou, Lu",
        2023,
        "MCUFormer: Deploying Vision Transformers on Microcontrollers with Limited Memory",
        "2310.16898",
    )
    gives: ClassVar[frozenset[str]] = frozenset({"trained members"})

    def __post_init__(self) -> None:
        """Check the fields."""
        check_counts(self, 1, "memory", "tries")
        check_shares(self, "lead")
        check_positive(self, "temperature")

    def step(self, turn: Turn) -> None:
        """Let one member that fits learn."""
        learn_led(turn, self.draw(turn), self.lead, self.temperature)

    def fits(self, turn: Turn, config: Config) -> bool:
        """Return whether a member's pass needs no more than the memory."""
        return planned_bytes(turn.family, config, self.weights) <= self.memory

    def draw(self, turn: Turn) -> Config:
        """Return a random member that fits: all that do are equally likely, while one of the tries hits.

        Raises:
            WrongShapeError: none does, not even the smallest.
        """
        config = turn.space.sample(turn.rng)
        for _ in range(self.tries - 1):
            if self.fits(turn, config):
                return config
            config = turn.space.sample(turn.rng)
        return config if self.fits(turn, config) else self.repaired(turn, config)

    def repaired(self, turn: Turn, config: Config) -> Config:
        """Return ``config`` with as few choices at their smallest, taken in random order, as make it fit.

        Raises:
            WrongShapeError: the smallest member does not fit.
        """
        least = turn.space.smallest()
        if not self.fits(turn, least):
            needed = planned_bytes(turn.family, least, self.weights)
            what = "with its weights " if self.weights else ""
            raise WrongShapeError(
                f"Mcuformer.memory is {self.memory} bytes, and even the smallest member {what}needs {needed} for one "
                "sample; give more memory, or the family more and smaller options"
            )
        order = turn.rng.sample(sorted(config), len(config))
        large, small = 0, len(order)  # how many choices are at their smallest: too few, and enough
        found = least
        while small - large > 1:
            middle = (large + small) // 2
            tried = Config({**config, **{name: least[name] for name in order[:middle]}})
            if self.fits(turn, tried):
                small, found = middle, tried
            else:
                large = middle
        return found
