"""Training a family: the loop, its guards, and its checkpoints."""

from ..family.imitation import distillation_loss as distillation_loss
from .course import Seen as Seen
from .loop import Progress as Progress
from .loop import train as train
from .step import TrainingStep as TrainingStep
