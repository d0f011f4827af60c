"""Training a family: the loop, its guards, and its checkpoints."""

from ..family.imitation import distillation_loss as distillation_loss
from .batches import sharded as sharded
from .compute import Compute as Compute
from .compute import Parts as Parts
from .course import Course as Course
from .course import Seen as Seen
from .loop import train as train
from .optimizer import default_optimizer as default_optimizer
from .step import TrainingStep as TrainingStep
from .stepping import Progress as Progress
from .teacher import CachedTeacher as CachedTeacher
