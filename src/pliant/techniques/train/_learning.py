"""Steps that several recipes are made of."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from ...space.config import Config
from ...technique import Turn


def learn_led(turn: Turn, config: Config, lead: float, temperature: float = 1.0, **how: Any) -> Any:
    """Let a member learn from the labels and, where the run has a teacher of its own, ``lead`` of the loss from that.

    Returns what the member gave.
    """
    taught = turn.taught()
    if taught is None:
        return turn.learn(config, **how)
    return turn.learn(config, teacher=taught, share=lead, temperature=temperature, **how)


def learn_after(turn: Turn, configs: Iterable[Config], together: bool, **how: Any) -> list[Any]:
    """Let members learn after one that has learnt: on its optimizer step where ``together``, else on one step each.

    Returns what they gave.
    """
    seen = []
    for config in configs:
        if not together:
            turn.update()
        seen.append(turn.learn(config, **how))
    return seen
