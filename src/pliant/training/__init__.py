"""Training a family: the loop, its guards, and its checkpoints."""

from .loop import Progress as Progress
from .loop import train as train
from .step import TrainingStep as TrainingStep
from .step import distillation_loss as distillation_loss
