"""A language of modules and combinators, in which a space of networks is written as one of them would be.

Basic modules take a value or a list of values for each hyperparameter. Combinators put them together: :func:`Concat`
(one after the other), :func:`Or` (one of several), :func:`Optional`, :func:`Repeat`, :func:`Residual` and
:func:`MaybeSwap` (two in either order). :func:`architectures` makes a :class:`pliant.Program` of an expression, which
any searcher searches; what a config of it picks is made with shapes inferred from an example of the input.

The claim of the paper (Negrinho and Gordon, 2017, DeepArchitect: Automatically Designing and Training Deep
Architectures, arXiv 1704.08792): so few combinators describe expressive spaces compactly, the spaces are trees that
search algorithms can traverse, and every point of them is compiled without further work by a person.

As in the paper, repetitions have hyperparameters of their own each, or, tied, the same; weights are never shared. A
residual sum whose sizes differ is filled up with zeros, and is flattened first where the numbers of dimensions differ.
Where this implementation differs: an expression is nothing but placeholders (:mod:`pliant.space.placeholders`), so Or
is ``oneof``, and both can be mixed. The paper copies a repeated module for every number of times; here the first copies
are decided by the same choices for all of them, so a searcher may learn of them together. Bisection is a matter of the
searcher, Monte Carlo tree search. The paper's hyperparameters without a module (of the training) are placeholders of a
program of the user's around ``architectures(expression, example).tree``.
"""

from .combinators import Concat as Concat
from .combinators import Expression as Expression
from .combinators import MaybeSwap as MaybeSwap
from .combinators import Optional as Optional
from .combinators import Or as Or
from .combinators import Repeat as Repeat
from .combinators import Residual as Residual
from .combinators import architectures as architectures
from .modules import Affine as Affine
from .modules import AvgPool2d as AvgPool2d
from .modules import BatchNorm as BatchNorm
from .modules import Conv2d as Conv2d
from .modules import Dropout as Dropout
from .modules import Empty as Empty
from .modules import MaxPool2d as MaxPool2d
from .modules import Relu as Relu
from .modules import Sigmoid as Sigmoid
from .modules import Tanh as Tanh
from .modules import basic as basic
