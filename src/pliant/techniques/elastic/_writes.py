"""Operations in place: where the result of a slot is written over, an alternative must not hand on its own input."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from torch import Tensor, nn
from torch.fx import Node
from torch.utils import _pytree as pytree

from ...graph.trace import Tracer, module_path


class Copied(nn.Module):
    """Runs an operation that may hand its input on, and gives a copy: what comes next writes into it."""

    def __init__(self, operation: nn.Module) -> None:
        super().__init__()
        self.operation = operation

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Run the operation."""
        result = self.operation(*args, **kwargs)
        return pytree.tree_map(lambda value: value.clone() if isinstance(value, Tensor) else value, result)


def nodes_of(trace: Tracer, paths: Iterable[str]) -> list[Node]:
    """Return the operations of a module, given all its paths."""
    starts = tuple(f"{path}." for path in paths)
    calls = [node for node in trace.capture.graph.nodes if node.op == "call_function"]
    return [node for node in calls if f"{module_path(node)}.".startswith(starts)]


def written_over(trace: Tracer, paths: Iterable[str]) -> bool:
    """Return whether some operation writes into what a module gives, itself or through a view of it."""
    inside = set(nodes_of(trace, paths))
    todo = [node for node in inside if any(user not in inside for user in node.users)]
    seen: set[Node] = set()
    while todo:
        node = todo.pop()
        for user in node.users:
            if user in inside or user in seen:
                continue
            uses = [alias for argument, alias in _arguments(user) if argument is node and alias is not None]
            if any(alias.is_write for alias in uses):
                return True
            if uses:  # a view of it
                seen.add(user)
                todo.append(user)
    return False


def _arguments(node: Node) -> Iterator[tuple[Any, Any]]:
    """Yield an operation's arguments, each with what its schema says of aliases."""
    schema = getattr(node.target, "_schema", None)
    for at, argument in enumerate(schema.arguments if schema is not None else ()):
        yield node.args[at] if at < len(node.args) else node.kwargs.get(argument.name), argument.alias_info


class Watch:
    """Notes whether an operation writes into its inputs, and whether its result lies in their memory.

    Args:
        module: the operation, which is to be called while this watches; until :meth:`remove`.
    """

    def __init__(self, module: nn.Module) -> None:
        self.writes = self.hands_on = False
        self._given: list[tuple[Tensor, int]] = []
        self._hooks = [
            module.register_forward_pre_hook(self._before, with_kwargs=True),
            module.register_forward_hook(self._after, with_kwargs=True),
        ]

    def _before(self, module: nn.Module, args: Any, kwargs: Any) -> None:
        self._given = [(leaf, leaf._version) for leaf in pytree.tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]

    def _after(self, module: nn.Module, args: Any, kwargs: Any, result: Any) -> None:
        self.writes |= any(leaf._version != version for leaf, version in self._given)
        memory = {leaf.untyped_storage()._cdata for leaf, _ in self._given}
        leaves = [leaf for leaf in pytree.tree_leaves(result) if isinstance(leaf, Tensor)]
        self.hands_on |= any(leaf.untyped_storage()._cdata in memory for leaf in leaves)
        self._given = []

    def remove(self) -> None:
        """Stop watching."""
        for hook in self._hooks:
            hook.remove()
