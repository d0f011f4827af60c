"""What may vary: choices, the space that they span, the configs in it, and constraints. Knows no torch."""

from .choice import Choice as Choice
from .choice import Option as Option
from .config import Config as Config
from .constraint import Constraint as Constraint
from .encoding import Encoding as Encoding
from .placeholders import Symbolic as Symbolic
from .placeholders import floatv as floatv
from .placeholders import manyof as manyof
from .placeholders import oneof as oneof
from .placeholders import symbolic as symbolic
from .problem import Count as Count
from .problem import Forms as Forms
from .problem import Problem as Problem
from .program import Program as Program
from .space import Space as Space
