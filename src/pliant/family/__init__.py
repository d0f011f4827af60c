"""One set of weights that serves all members of a family."""

from .draft import Draft as Draft
from .family import Family as Family
from .growth import Growth as Growth
from .imitation import Imitation as Imitation
from .imitation import View as View
from .imitation import distillation_loss as distillation_loss
from .language import architectures as architectures
from .place import Placed as Placed
from .place import at as at
from .switched import Switched as Switched
from .tree_cell import TreeCell as TreeCell
