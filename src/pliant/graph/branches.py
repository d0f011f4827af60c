"""Finding the branches that can be left out: modules whose result the code around them adds to what they start from.

``x = x + self.attention(self.norm(x))`` in the forward of the whole network: no module holds the addition, but without
the branch the sum is the residual path itself.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch.fx import Node

from .rules.reduction import NAMES as REDUCTIONS
from .trace import is_tensor, signature

ADD = {"add", "add_"}
THROUGH = {
    "layer_norm", "rms_norm", "batch_norm", "group_norm", "relu", "relu_", "gelu", "silu", "silu_", "dropout",
    "dropout_", "contiguous", "clone", "to", "alias", "detach", "type_as", "hardswish", "hardswish_", "relu6",
    "hardtanh", "hardtanh_", "view", "reshape", "_unsafe_view", "flatten", "unflatten", "_to_copy", "feature_dropout",
    "mish", "leaky_relu", "leaky_relu_",
}  # fmt: skip
# What may stand between a branch and its addition: of nothing, these make nothing.
_NOTHING = {
    "dropout", "dropout_", "feature_dropout", "contiguous", "clone", "to", "alias", "type_as", "_to_copy", "view",
    "reshape", "_unsafe_view", "mul", "mul_",
}  # fmt: skip


def operation(node: object) -> str:
    """Return the plain name of a node's operation; ``""`` where it is none."""
    return signature(node.target)[0] if isinstance(node, Node) and hasattr(node.target, "_schema") else ""


def branch_of(region: Sequence[Node], same: Callable[[Node, Node], bool]) -> tuple[Node, Node, list[Node]] | None:
    """Return the residual path that a module's result is added to, their sum, and what lies between result and sum.

    Args:
        region: the operations of the module.
        same: tells whether two nodes have the same terms.
    """
    inside = set(region)
    exits = [node for node in region if any(user not in inside for user in node.users)]
    if len(exits) != 1 or not is_tensor(exits[0]):
        return None
    node, between = exits[0], list[Node]()
    while len(node.users) == 1:
        user = next(iter(node.users))
        if operation(user) in ADD:
            path = _other(user, node)
            starts = {source for each in region for source in each.all_input_nodes if source not in inside}
            if path is not None and same(path, user) and _starts_at(starts, path):
                return path, user, between
            return None
        if operation(user) not in _NOTHING or not same(user, node):
            return None
        between.append(user)
        node = user
    return None


def _other(addition: Node, node: Node) -> Node | None:
    """Return what a plain sum of two tensors adds to ``node``."""
    if len(addition.args) != 2 or addition.kwargs or not all(map(is_tensor, addition.args)):
        return None
    left, right = addition.args
    if left is right:
        return None
    return right if left is node else left  # type: ignore[return-value]


def _starts_at(starts: set[Node], path: Node) -> bool:
    """Tell whether a module's input is the residual path or its normalisation, whoever wrote that."""
    todo, seen = list(starts), set(starts)
    while todo:
        node = todo.pop()
        if node is path:
            return True
        name = operation(node)
        if name in ADD and sum(source.op == "call_function" for source in node.all_input_nodes) > 1:
            continue  # what was added before is no part of a normalisation
        if name in THROUGH or name in REDUCTIONS or (name and torch.Tag.pointwise in node.target.tags):  # type: ignore[union-attr]
            new = [source for source in node.all_input_nodes if source not in seen]
            seen.update(new)
            todo += new
    return False
