"""When and where in memory the tensors of a forward pass live: noted, planned, and run as planned."""

from .arena import simulate as simulate
from .plan import MemoryPlan as MemoryPlan
from .plan import plan_memory as plan_memory
from .tape import Tape as Tape
from .tape import one_sample as one_sample
from .tape import record as record
