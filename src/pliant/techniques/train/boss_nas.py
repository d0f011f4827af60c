"""BossNAS: blocks of a family are trained one after the other without labels, and members rated by what they learnt.

The network is cut into consecutive blocks, which are trained in turn; those before are as they were left, on the path
that was rated best. In each step several paths through the block are drawn, all options equally often. Each sees a view
of the batch (its inputs, changed at random) and predicts what the teacher gives on another view: the average over all
those paths, with weights that are a moving average of the family's (ensemble bootstrapping). A path is rated by the
distance between its prediction and the centre of all paths of its block, the average of what the teacher gives on them;
a member by the sum over its blocks. The paper's claim: members are ranked better than by other one-shot methods, for
networks of convolutions and attention mixed (Spearman 0.78 in a space of MobileNet blocks on ImageNet, 0.76 in
NATS-Bench's sizes on CIFAR-100).

This implementation differs from the authors' code. Blocks end at the outputs of submodules: at those of runs of
residual blocks, of single ones where there is one run, of layers where there is none, unless they are named; the head
after the last one learns nothing: train the member that was chosen, or the family, with labels afterwards (the paper
trains the best one anew). A choice that reaches into several blocks, as one depth of a whole transformer may, is drawn
in each of them and settled in the last one; where features have other widths in other members, missing channels count
as zeros before the projector (in the authors' code each width has a layer of its own there). All weights share the
optimizer and the learning rate of the run, and heads learn by Adam, where the authors restart LARS for every block; the
teacher's momentum rises over the run, as there. Views are noise unless a function is given, the authors' are crops and
colours. Best paths are those of the last batch of a block's training, the authors' of a whole validation set; there,
ratings see the blocks before with the teacher's weights, here with the family's, and the centre is of projections as
they are, here of projections brought to length 1, as both do in training. The paper's fabric of convolutions and
attention is a network of the user's own. Where features reach past the end of a block on another way, as through the
long connections of a U-Net, blocks before it go on learning. The account is from the abstract and a reading of the
authors' code.

Known, on scikit-learn's digits (``momentum=0.95, lr=0.01``, 80 steps, three seeds): for perceptrons of 25 shapes whose
errors alone range from 10 to 90 %, Spearman's correlation of ratings with these errors was 0.82, 0.87 and 0.84; for
convolutional networks of 25 pairs of widths, from 8 to 84 %, 0.77, 0.71 and 0.72. For residual perceptrons whose errors
range from 5 to 11 % it was -0.31, 0.13, -0.14 and -0.37 after 240 steps (``lr=1e-3``): blocks that are left out are
rated too well, as what they hand on is easy to predict. The paper's three spaces (kinds of inverted residuals, widths,
convolution or attention) leave none out.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from random import Random
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn

from ...checks import PliantError, WrongShapeError
from ...family.statistics import keeping_modes
from ...graph.prepare import seeded
from ...space.config import Config
from ...space.space import Space
from ...technique import Paper, Recipe, Turn
from ._adam import adam
from ._blocks import Blocks
from ._bootstrap import follow, new_heads, noisy, weights
from ._fields import check_counts, check_positive, check_shares, refuse
from ._lesson import Lesson, Pair, Rater, feature_of

if TYPE_CHECKING:
    from ...family.family import Family

_TEACHER, _HEADS, _BEST, _BORDERS, _REACH = "teacher", "heads", "best", "borders", "reach"
_STUDENT, _TARGET, _MOMENTS, _STEPS = "student", "teacher", "moments", "steps"


@dataclass(frozen=True)
class BossNas(Recipe):
    """Train the family's blocks one after the other without labels; afterwards :meth:`rater` rates members.

    Attributes:
        blocks: into how many blocks the network is cut at most, or the submodules whose outputs end them.
        paths: how many paths through the block learn in each step.
        population: of how many paths the centre is taken: all of a block, or as many random ones.
        momentum: of the teacher at first; it rises to 1.
        width: the length of the vectors that are compared.
        lr: the learning rate of the heads (Adam).
        view: a function of a batch's inputs that gives another view of them; or how strong noise is: the share of the
            inputs' spread, or of tokens that are replaced by others of the batch.
    """

    blocks: int | tuple[str, ...] = 4
    paths: int = 4
    population: int = 32
    momentum: float = 0.99
    width: int = 64
    lr: float = 3e-3
    view: float | Callable[[Any], Any] = 0.2

    paper: ClassVar[Paper | None] = Paper(
        "Li, Tang, Wang, Peng, Wang, Liang, Chang",
        2021,
        "BossNAS: Exploring Hybrid CNN-transformers with Block-wisely Self-supervised Neural Architecture Search",
        "2103.12424",
    )
    gives: ClassVar[frozenset[str]] = frozenset({"rated members", "a favourite member"})

    def __post_init__(self) -> None:
        """Check the fields."""
        if isinstance(self.blocks, int):
            check_counts(self, 1, "blocks")
        elif not self.blocks or isinstance(self.blocks, str):
            refuse(self, "blocks", "a number of blocks, or the paths of the submodules that end them")
        check_counts(self, 1, "paths", "population")
        check_counts(self, 2, "width")
        check_shares(self, "momentum")
        check_positive(self, "lr")
        if not callable(self.view):
            check_positive(self, "view")

    # ---- training --------------------------------------------------------------------------------------------------
    def step(self, turn: Turn) -> None:
        """Let several paths through the block whose turn it is predict what the teacher gives on all of them."""
        family, memory = turn.family, turn.memory
        if _TEACHER not in memory:
            self._begin(turn)
        else:
            self._follow(turn)
        blocks = _blocks(memory)
        count = len(blocks.borders)
        at, best = turn.step * count // turn.steps, Config.from_json(memory[_BEST])
        if str(at) not in memory[_HEADS]:
            memory[_HEADS][str(at)] = self._new(turn, blocks, at)
        kept = memory[_HEADS][str(at)]
        paths = blocks.fair(family, at, best, self.paths, turn.rng)
        student = {name: nn.Parameter(weight.detach().clone()) for name, weight in kept[_STUDENT].items()}
        lesson = Lesson(family, memory[_TEACHER], blocks, at, student, kept[_TARGET])
        turn.descend(
            paths[0], lambda inputs: lesson.loss(paths, [self._pair(inputs) for _ in paths]), [*student.values()]
        )
        self._learn(kept, student)
        if (turn.step + 1) * count // turn.steps > at:
            memory[_BEST] = self._settled(turn, blocks, at, best).to_json()
        for parameter in family.parameters():  # what got nothing rests: no momentum, no decay
            if parameter.grad is not None and not parameter.grad.any():
                parameter.grad = None

    def risen(self, step: int, steps: int) -> float:
        """Return the teacher's momentum: it rises to 1 as a cosine."""
        return 1 - (1 - self.momentum) * 0.5 * (1 + math.cos(math.pi * step / max(1, steps)))

    def _begin(self, turn: Turn) -> None:
        blocks, memory = Blocks.of(turn.family, self.blocks), turn.memory
        memory[_BORDERS], memory[_REACH] = list(blocks.borders), [sorted(names) for names in blocks.reach]
        memory[_TEACHER] = {name: weight.detach().clone() for name, weight in weights(turn.family).items()}
        memory[_HEADS], memory[_BEST] = {}, turn.space.largest().to_json()

    def _follow(self, turn: Turn) -> None:
        """Let the teacher follow what the last step made of the family and of the heads."""
        momentum = self.risen(turn.step, turn.steps)
        follow(turn.memory[_TEACHER], weights(turn.family), momentum)
        for kept in turn.memory[_HEADS].values():
            follow(kept[_TARGET], kept[_STUDENT], momentum)

    def _new(self, turn: Turn, blocks: Blocks, at: int) -> dict[str, Any]:
        """Return the heads of a block: the student's, the teacher's, which has no predictor, and Adam's moments."""
        args, kwargs = turn.family.example()
        net = turn.family.member(turn.space.largest())
        with torch.no_grad(), keeping_modes(net):  # for the number of channels alone
            feature = feature_of(net, blocks, at, partial(net.eval(), *args, **kwargs))
        draw = torch.Generator().manual_seed(turn.rng.getrandbits(31))
        student = new_heads(feature.shape[1], self.width, draw, feature)
        target = {name: weight.clone() for name, weight in student.items() if name.startswith("project")}
        return {_STUDENT: student, _TARGET: target, _MOMENTS: {}, _STEPS: 0}

    def _pair(self, inputs: Any) -> Pair:
        view = self.view if callable(self.view) else noisy(self.view)
        return view(inputs), view(inputs)

    def _learn(self, kept: dict[str, Any], student: Mapping[str, nn.Parameter]) -> None:
        kept[_STEPS] += 1
        with torch.no_grad():
            for name, parameter in student.items():
                if parameter.grad is not None:
                    moments = kept[_MOMENTS].setdefault(name, {})
                    adam(kept[_STUDENT][name], parameter.grad, moments, kept[_STEPS], self.lr, (0.9, 0.999))

    def _settled(self, turn: Turn, blocks: Blocks, at: int, best: Config) -> Config:
        """Return ``best`` with the best options of the choices that end with a block, by ratings on this batch."""
        if not (names := blocks.settled(at)):
            return best
        kept, told = turn.memory[_HEADS][str(at)], dict(turn.losses)
        lesson = Lesson(turn.family, turn.memory[_TEACHER], blocks, at, kept[_STUDENT], kept[_TARGET])
        paths = blocks.paths(turn.family, at, best, self.population, turn.rng)
        known: dict[int, tuple[Pair, list[Tensor]]] = {}

        def rated(path: Config, inputs: Any) -> Tensor:
            if id(inputs) not in known:
                pair = self._pair(inputs)
                known[id(inputs)] = pair, lesson.centres(paths, [pair] * len(paths))
            return lesson.rating(path, *known[id(inputs)])

        for path in paths:
            turn.descend(path, partial(rated, path))
        first = min(paths, key=turn.losses.__getitem__)
        turn.losses.clear()
        turn.losses.update(told)
        return Config({**best, **{name: first[name] for name in names}})

    # ---- rating ----------------------------------------------------------------------------------------------------
    def rater(self, family: Family, memory: Mapping[str, Any], inputs: Iterable[Any], seed: int = 0) -> Rater:
        """Return what rates members of a family that this recipe has trained.

        Args:
            family: the family.
            memory: what the run remembers, ``progress.memory``.
            inputs: of one batch or several, without labels; of each two views are taken.
            seed: of the views, and of the population where it is random.

        Raises:
            PliantError: the memory is not of a run with this recipe, or one that ended before its last block.
            WrongShapeError: there are no inputs.
        """
        done, wanted = len(memory.get(_HEADS, ())), len(memory.get(_BORDERS, ()))
        if not done or done != wanted:
            raise PliantError(
                f"this memory holds heads of {done} of {wanted} blocks; give Progress.memory of a run with BossNas "
                "that reached its end, and had a step or more for each block"
            )
        with seeded(seed):
            pairs = [self._pair(x) for x in inputs]
        if not pairs:
            raise WrongShapeError("members are rated on batches of inputs; got none")
        blocks, best, rng = _blocks(memory), Config.from_json(memory[_BEST]), Random(seed)
        rows = []
        for at in range(done):
            kept = memory[_HEADS][str(at)]
            lesson = Lesson(family, memory[_TEACHER], blocks, at, kept[_STUDENT], kept[_TARGET])
            paths = blocks.paths(family, at, best, self.population, rng)
            rows.append((lesson, [(pair, lesson.centres(paths, [pair] * len(paths))) for pair in pairs]))
        return Rater(family, best, rows)

    @staticmethod
    def best(space: Space, memory: Mapping[str, Any]) -> Config:
        """Return the member of the paths that were rated best, block by block.

        Args:
            space: the family's space.
            memory: what the run remembers, ``progress.memory``.

        Raises:
            PliantError: the memory is not of a run with this recipe, or of another space.
        """
        if _BEST not in memory:
            raise PliantError("this memory holds no paths; give Progress.memory of a run with BossNas")
        return space.check(Config.from_json(memory[_BEST]))


def _blocks(memory: Mapping[str, Any]) -> Blocks:
    return Blocks(tuple(memory[_BORDERS]), tuple(frozenset(names) for names in memory[_REACH]))
